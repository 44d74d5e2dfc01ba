import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from openloopy.models.weight_files import load_weights, mismatch_report, save_weights


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


def test_there_and_back(tmp_path):
    path, saved, loaded = tmp_path / "a.safetensors", network(0), network(1)
    saved[1].running_mean.fill_(0.5)
    save_weights(saved, path)
    load_weights(loaded, path)
    for mine, theirs in zip(loaded.state_dict().values(), saved.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_half_precision_file_is_cast_to_the_module(tmp_path):
    save_weights(network(0).half(), tmp_path / "a.safetensors")
    loaded = load_weights(network(1), tmp_path / "a.safetensors")
    assert loaded[0].weight.dtype == torch.float32
    torch.testing.assert_close(loaded[0].weight, network(0)[0].weight, atol=1e-3, rtol=1e-3)


def test_report_names_every_kind_of_mismatch(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(network(0), path)
    tensors = load_file(path)
    del tensors["0.bias"]
    save_file(tensors | {"0.weight": torch.zeros(9, 3), "extra": torch.zeros(2)}, path)
    with pytest.raises(ValueError) as error:
        load_weights(network(1), path)
    message = str(error.value)
    assert "1 missing:\n    0.bias (4,)" in message
    assert "1 unexpected:\n    extra (2,)" in message
    assert "1 of another shape:\n    0.weight: file (9, 3), model (4, 3)" in message


def test_a_long_report_is_cut_and_counted():
    report = mismatch_report({}, {f"layer.{i}": (1,) for i in range(100)})
    assert report.startswith("  100 missing:") and report.endswith("and 92 more")
    assert len(report.splitlines()) == 10


def test_a_truncated_file_and_no_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(network(0), path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(network(1), path)
    with pytest.raises(ValueError, match="cannot be read"):
        load_weights(network(1), tmp_path / "absent.safetensors")


def test_a_diverged_network_is_not_saved_and_the_old_file_stays(tmp_path):
    path, diverged = tmp_path / "a.safetensors", network(0)
    save_weights(diverged, path)
    before = path.read_bytes()
    with torch.no_grad():
        diverged[0].weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match="0.weight is not finite"):
        save_weights(diverged, path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_a_module_without_memory_takes_the_tensors_of_the_file(tmp_path):
    save_weights(network(0).half(), tmp_path / "a.safetensors")
    with torch.device("meta"):
        loaded = network(1)
    load_weights(loaded, tmp_path / "a.safetensors")
    assert not any(value.is_meta for value in loaded.state_dict().values())
    assert loaded[0].weight.dtype == torch.float16
    assert torch.equal(loaded[0].weight, network(0).half()[0].weight)
