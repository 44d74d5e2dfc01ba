"""The reliability campaign: whatever comes in, whenever it is killed, for however long (docs/reliability.md).

    python -m tests.campaign.fuzz --cpu-hours 4 --seed 0 --out DIR
    python -m tests.campaign.guided --minutes 10 --out DIR
    python -m tests.campaign.kill --count 100 --seed 0 --out DIR
    python -m tests.campaign.hour --out DIR

All of them go on where they stopped, keep what fails so that it can be replayed, and write a table.
"""
