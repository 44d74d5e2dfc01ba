"""The pipeline on the Hugging Face hub: `save_pretrained`, `push_to_hub` and the model card, by its own mixin."""

from __future__ import annotations

from huggingface_hub import ModelHubMixin

PAPER = "https://arxiv.org/abs/2409.02634"
MODEL_CARD = """---
{{ card_data }}
---

# {{ name }}: a portrait and a sound become a talking video

A model of [OpenLoopy](https://pypi.org/project/openloopy/), an open implementation of [Loopy]({{ paper_url }}): one \
portrait and one sound clip become a video of that person speaking. Not the paper's authors' weights.

```python
import openloopy

openloopy.generate("portrait.jpg", "speech.mp3", "talking.mp4", model="OWNER/{{ name }}")  # or this folder's path
```

{{ num_parameters }} parameters in denoiser and reference net. Frames of {{ size_px }}x{{ size_px }} px \
unless asked for otherwise, 25 a second.

Make videos only of people who have agreed to it, or of pictures that may be used so; say that they are generated.
Videos carry a container tag and an imperceptible mark that say so.
"""


class HubPipeline(
    ModelHubMixin,
    library_name="openloopy",
    license="apache-2.0",
    pipeline_tag="image-to-video",
    tags=["talking-head", "audio-driven", "loopy"],
    paper_url=PAPER,
    model_card_template=MODEL_CARD,
):
    """What the hub asks of a pipeline."""
