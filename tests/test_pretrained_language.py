"""Language models that speak of cells: losses by hand, a base that never moves, the same after saving and loading."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from syncyte.errors import CheckpointError, ConfigError, DataError
from syncyte.models.pretrained import LanguageModel, LanguageSizes
from syncyte.models.pretrained_folder import fingerprint

transformers = pytest.importorskip("transformers")
pytest.importorskip("peft")

from tests.text_models import BEGIN, END, TEXTS, number, save, save_gpt, save_llama  # noqa: E402

INWARD, QUERIES = 6, 3


@pytest.fixture(scope="session")
def speakers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model with a token of the beginning and tied weights, and one with neither; not to be changed."""
    folder = tmp_path_factory.mktemp("speakers")
    return {"gpt2": save_gpt(folder / "GPT"), "llama": save_llama(folder / "LLAMA")}


@pytest.fixture(params=["gpt2", "llama"])
def speaker(request: pytest.FixtureRequest, speakers: dict[str, Path]) -> Path:
    return speakers[request.param]


def language(folder: Path, **sizes) -> LanguageModel:
    with torch.random.fork_rng():
        torch.manual_seed(1)
        return LanguageModel(folder, INWARD, LanguageSizes(**sizes)).eval()


def prefix(cells: int = len(TEXTS), seed: int = 0) -> torch.Tensor:
    return torch.randn(cells, QUERIES, INWARD, generator=torch.Generator().manual_seed(seed))


def losses_by_hand(model: LanguageModel, states: torch.Tensor, text: str) -> np.ndarray:
    """The loss of each piece of one text and of its end, without padding and in float64."""
    start = model._tokenizer.bos_token_id
    embed = model.base.get_input_embeddings()
    pieces = [*number(text), END]
    parts = [] if start is None else [embed(torch.tensor([start]))]
    given = torch.cat([*parts, model.projection(states), embed(torch.tensor(pieces))])
    with torch.no_grad():
        scores = model.base(inputs_embeds=given[None]).logits[0].double().numpy()
    scores = scores[-len(pieces) - 1 : -1]
    log_chance = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return -log_chance[np.arange(len(pieces)), pieces]


def test_loss_is_that_of_the_pieces_and_the_end(speaker: Path):
    model, cells = language(speaker), prefix()
    found, count = model.loss(cells, TEXTS)
    parts = np.concatenate([losses_by_hand(model, states, text) for states, text in zip(cells, TEXTS)])
    assert int(count) == len(parts) == (5 + 1 + 9 + 2) + 4
    assert found.item() == pytest.approx(parts.mean(), rel=1e-5)


def test_a_longer_neighbour_changes_no_loss(speaker: Path):
    model, cells = language(speaker), prefix()
    alone = model.loss(cells[1:2], TEXTS[1:2])
    pair = model.loss(cells[1:3], TEXTS[1:3])
    other = model.loss(cells[2:3], TEXTS[2:3])
    joined = (alone[0] * alone[1] + other[0] * other[1]) / (alone[1] + other[1])
    torch.testing.assert_close(pair[0], joined, atol=1e-5, rtol=1e-5)


def test_cut_texts_have_no_end(speaker: Path):
    text = "a cell of the blood"
    parts = losses_by_hand(language(speaker), prefix(1)[0], text)
    for length in (3, 5, 6, 7):
        found, count = language(speaker, length=length).loss(prefix(1), [text])
        assert int(count) == min(length, 6)
        assert found.item() == pytest.approx(parts[:length].mean(), rel=1e-5)


def test_the_prefix_is_read_and_learns(speaker: Path):
    model = language(speaker)
    cells = prefix(2).requires_grad_()
    one = model.loss(cells, TEXTS[:2])[0]
    one.backward()
    assert (cells.grad.abs().sum(dim=2) > 0).all()
    other = model.loss(prefix(2, seed=9), TEXTS[:2])[0]
    assert abs(one.item() - other.item()) > 1e-3


def test_only_updates_and_projection_learn(speaker: Path):
    model = language(speaker).train()
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert learning == set(model.state_dict())
    assert all(".lora_" in name or name.startswith("projection.") for name in learning)
    assert any(".lora_A." in name for name in learning)
    frozen = {name: part.clone() for name, part in model.named_parameters() if name not in learning}
    cells = prefix()
    optimizer = torch.optim.Adam([part for part in model.parameters() if part.requires_grad], lr=1e-2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = model.eval().loss(cells, TEXTS)[0].item()
        model.train()
        for _ in range(30):
            optimizer.zero_grad()
            model.loss(cells, TEXTS)[0].backward()
            optimizer.step()
    assert model.eval().loss(cells, TEXTS)[0].item() < before - 0.5
    assert all(torch.equal(part, frozen[name]) for name, part in model.named_parameters() if name in frozen)
    assert any(part.abs().sum() > 0 for name, part in model.named_parameters() if ".lora_B." in name)
    stored = load_file(speaker / "model.safetensors")
    assert all(
        torch.equal(stored[name], model.base.state_dict()[name]) for name in stored if "norm" in name or "ln_" in name
    )


def test_updates_begin_as_nothing(speaker: Path):
    model, plain = language(speaker), transformers.AutoModelForCausalLM.from_pretrained(speaker).eval()
    ids = torch.tensor([[BEGIN, *number(TEXTS[0])]])
    with torch.no_grad():
        torch.testing.assert_close(model.base(ids).logits, plain(ids).logits, atol=1e-5, rtol=1e-5)


def overfitted(folder: Path, cells: torch.Tensor, texts: list[str]) -> LanguageModel:
    model = language(folder, dropout=0.0)
    optimizer = torch.optim.Adam([part for part in model.parameters() if part.requires_grad], lr=1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        model.loss(cells, texts)[0].backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    return model


def test_it_says_what_it_has_learned_and_the_same_each_time(speaker: Path):
    cells, texts = prefix(2), ["a cell of the blood", "kills infected cells"]
    model = overfitted(speaker, cells, texts)
    model.train()
    model.projection.eval()
    assert model.generate(cells, max_new=12) == texts
    assert model.generate(cells.flip(0), max_new=12) == texts[::-1]
    assert model.generate(cells, max_new=12, beams=3) == texts
    assert model.training and model.base.training and not model.projection.training
    assert model.generate(cells, max_new=2) == ["a cell", "kills infected"]
    assert model.generate(cells[:0]) == []


def test_settings_of_a_folder_for_sampling_are_not_used(speakers: dict[str, Path], tmp_path: Path):
    folder = shutil.copytree(speakers["llama"], tmp_path / "L")
    (folder / "generation_config.json").write_text('{"do_sample": true, "temperature": 5.0, "top_k": 3}')
    model, plain = language(folder), language(speakers["llama"])
    assert model.generate(prefix(), max_new=8) == model.generate(prefix(), max_new=8) == plain.generate(prefix(), 8)


def test_saved_and_loaded_it_is_the_same(speaker: Path, tmp_path: Path):
    cells, texts = prefix(2), ["a cell of the blood", "kills infected cells"]
    model = overfitted(speaker, cells, texts)
    model.save(tmp_path / "SAVED")
    assert sorted(path.name for path in (tmp_path / "SAVED").iterdir()) == ["language.json", "language.safetensors"]
    weights = load_file(tmp_path / "SAVED" / "language.safetensors")
    assert set(weights) == set(model.state_dict())
    assert not any("base_layer" in name or "embed" in name or "wte" in name for name in weights)
    again = LanguageModel.load(tmp_path / "SAVED").eval()
    assert again.sizes == model.sizes
    assert torch.equal(again.loss(cells, texts)[0], model.loss(cells, texts)[0])
    assert again.generate(cells, max_new=12) == texts
    with pytest.raises(DataError, match="exists and is not empty"):
        model.save(tmp_path / "SAVED")
    model.save(tmp_path / "SAVED", overwrite=True)


def test_another_base_is_noticed(speakers: dict[str, Path], tmp_path: Path):
    base = Path(shutil.copytree(speakers["gpt2"], tmp_path / "G"))
    model = language(base)
    model.save(tmp_path / "SAVED")
    base.rename(tmp_path / "MOVED")
    with pytest.raises(
        CheckpointError, match=r"The base model of .*SAVED is not in .*G\. Say where it is: base=FOLDER"
    ):
        LanguageModel.load(tmp_path / "SAVED")
    again = LanguageModel.load(tmp_path / "SAVED", base=tmp_path / "MOVED").eval()
    assert torch.equal(again.loss(prefix(), TEXTS)[0], model.loss(prefix(), TEXTS)[0])
    other = save_gpt(tmp_path / "OTHER", seed=1)
    assert fingerprint(other) != fingerprint(tmp_path / "MOVED") == fingerprint(speakers["gpt2"])
    with pytest.raises(CheckpointError, match=r"not the one that .* was trained on"):
        LanguageModel.load(tmp_path / "SAVED", base=other)


def test_damaged_or_foreign_saves_are_refused(speakers: dict[str, Path], tmp_path: Path):
    with pytest.raises(CheckpointError, match="holds no language model that was saved here"):
        LanguageModel.load(tmp_path / "none")
    language(speakers["gpt2"]).save(tmp_path / "SAVED")
    facts = json.loads((tmp_path / "SAVED" / "language.json").read_text())
    (tmp_path / "SAVED" / "language.json").write_text(json.dumps({**facts, "inward": INWARD + 1}))
    with pytest.raises(CheckpointError, match="do not fit the model"):
        LanguageModel.load(tmp_path / "SAVED")
    (tmp_path / "SAVED" / "language.json").write_text(json.dumps({**facts, "format": 99}))
    with pytest.raises(CheckpointError, match="format 99; known is 1"):
        LanguageModel.load(tmp_path / "SAVED")


def test_as_a_part_it_stores_what_learns_alone(speakers: dict[str, Path]):
    """State and strict loading of a module that holds one, and of a copy of it."""
    whole = nn.ModuleDict({"before": nn.Linear(2, 2), "speaker": language(speakers["gpt2"])})
    state = whole.state_dict()
    assert {name for name in state if not name.startswith("speaker.")} == {"before.weight", "before.bias"}
    assert sum(name.startswith("speaker.") for name in state) == len(whole["speaker"].state_dict())
    twin = copy.deepcopy(whole)
    moved = {name: part + 1 for name, part in state.items()}
    twin.load_state_dict(moved)
    assert all(torch.equal(part, moved[name]) for name, part in twin.state_dict().items())
    assert all(torch.equal(part, state[name]) for name, part in whole.state_dict().items())
    bases = [dict(part["speaker"].base.named_parameters()) for part in (whole, twin)]
    assert all(torch.equal(bases[0][n], bases[1][n]) for n in bases[0] if ".lora_" not in n)
    lost = next(name for name in moved if ".lora_A." in name)
    with pytest.raises(RuntimeError, match="Missing key"):
        twin.load_state_dict({name: part for name, part in moved.items() if name != lost})
    with pytest.raises(RuntimeError, match="Unexpected key"):
        twin.load_state_dict({**moved, "speaker.more": torch.zeros(1)})
    for parameter in twin.parameters():
        parameter.requires_grad_(False)
    assert set(twin.state_dict()) == set(state)


def test_half_precision_of_the_base_alone(speaker: Path):
    model = language(speaker, precision="bfloat16")
    kinds = {part.dtype for name, part in model.named_parameters() if part.requires_grad}
    assert kinds == {torch.float32} and model.base.get_input_embeddings().weight.dtype == torch.bfloat16
    found, _ = model.loss(prefix(), TEXTS)
    found.backward()
    assert all(part.grad is not None for part in model.parameters() if part.requires_grad)
    assert found.item() == pytest.approx(language(speaker).loss(prefix(), TEXTS)[0].item(), rel=0.05)
    assert found.dtype == torch.float32 and len(model.generate(prefix(), 3)) == len(TEXTS)


def test_layers_to_update(speakers: dict[str, Path], tmp_path: Path):
    model = language(speakers["llama"], targets=("up_proj",), rank=2)
    updated = {name.split(".lora_")[0].rpartition(".")[2] for name in model.state_dict() if ".lora_" in name}
    assert updated == {"up_proj"}
    assert {part.shape[0] for name, part in model.state_dict().items() if ".lora_A." in name} == {2}
    with pytest.raises(
        ConfigError, match=r"\['attention'\] cannot be updated in a llama model\. Give some of: down_proj"
    ):
        language(speakers["llama"], targets=("attention",))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.OlmoConfig(vocab_size=40, intermediate_size=16, **sizes)
    folder = save(tmp_path / "O", transformers.OlmoForCausalLM(config), eos_token="</s>")
    with pytest.raises(
        ConfigError, match=r"no layers to update in a olmo model\. Give targets, some of: down_proj, .*v_proj\."
    ):
        language(folder)
    assert language(folder, targets=("q_proj",)).loss(prefix(), TEXTS)[0] > 0


def test_what_does_not_go_together(speakers: dict[str, Path], tmp_path: Path):
    model = language(speakers["gpt2"])
    with pytest.raises(DataError, match=r"shape \(4, 6\); needed is \(cells, queries, 6\)"):
        model.loss(torch.zeros(4, 6), TEXTS)
    with pytest.raises(DataError, match="3 cells and 4 texts"):
        model.loss(prefix(3), TEXTS)
    with pytest.raises(DataError, match="One text was given"):
        model.loss(prefix(1), "liver")
    with pytest.raises(ConfigError, match=r"take 68 places, and the model in .* has 32\. Lower length or max_new"):
        model.generate(prefix())
    with pytest.raises(ConfigError, match="take 45 places"):
        model.loss(prefix(1), [" ".join(["cell"] * 40)])
    with pytest.raises(ConfigError, match="no token for the end"):
        language(save_gpt(tmp_path / "G", pad_token="<pad>"))
