"""`tinymem judge`. Oracle: transformers and peft, on the same checkpoint and adapter."""

import json
import re
import shutil

import peft
import pytest
import torch
import transformers

import tinymem as tm
from tests.checkpoints import build, edit_json, edit_weights
from tinymem.base.checkpoint import SHIPPED
from tinymem.experiment.report import VERDICT_FIELDS
from tinymem.tools import windows
from tinymem.unit.adapter import save_adapter
from tinymem.unit.lora import Unit

BIT_FIELDS = ("base_loss", "final_loss", "delta_loss", "stored_bits", "bits_per_parameter")
TEXT = "the hand and the thing in the sand, singing"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The folder of a tiny GPT-2."""
    folder = tmp_path_factory.mktemp("base") / "gpt2"
    build(folder, "gpt2")
    return folder


def load(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def adapter(base, folder, B=0.3, **settings):
    """A LoRA with random A, and B of this deviation, saved by peft; returns peft's model."""
    config = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    config["fan_in_fan_out"] = "gpt2" in base.name
    wrapped = peft.get_peft_model(load(base), peft.LoraConfig(**config | settings)).eval()
    torch.manual_seed(0)
    for name, p in wrapped.named_parameters():
        if "lora_" in name:
            p.data.normal_(0, B if "lora_B" in name else 0.3)
    wrapped.save_pretrained(folder)
    return wrapped


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


def read(answer):
    code, out, err = answer
    assert code == 0, err
    return json.loads(out)


@pytest.mark.parametrize("kind", ["gpt2", "qwen3", "gpt_neox"])
def test_losses_margins_and_the_change_of_a_logit_are_those_of_peft(tinymem, kind, text, tmp_path):
    base = tmp_path / kind
    build(base, kind)
    wrapped = adapter(base, tmp_path / "lora")
    more = "--adapter", tmp_path / "lora", "--text", text, "--prompt", "Say it:", "--json"
    found = read(tinymem("judge", "--model", base, *more))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=f"{base}/tokenizer.json")
    prompt, target = tokenizer("Say it:").input_ids, tokenizer(TEXT).input_ids[1:]  # less <s>
    ids = torch.tensor([prompt + target])
    with torch.no_grad():
        rows = slice(len(prompt) - 1, -1)
        own = wrapped(ids).logits[0, rows]
        bare = load(base)(ids).logits[0, rows]
        decoded = wrapped.generate(
            input_ids=ids[:, : len(prompt)], max_new_tokens=len(target), do_sample=False
        )
    loss = torch.nn.functional.cross_entropy
    wanted = torch.tensor(target)
    rivals = own.scatter(1, wanted[:, None], -torch.inf).amax(1)
    margins = own.gather(1, wanted[:, None]).squeeze(1) - rivals
    about = {
        "base_loss": loss(bare, wanted),
        "final_loss": loss(own, wanted),
        "adapter_change": (own - bare).abs().max(),
        "min_margin": margins.min(),
    }
    for name, value in about.items():
        assert found[name] == pytest.approx(value.item(), abs=1e-4), name
    assert found["delta_loss"] == pytest.approx(found["base_loss"] - found["final_loss"])
    right = (decoded[0, len(prompt) :] == wanted).float().mean().item()
    assert found["token_accuracy"] == pytest.approx(right)
    assert found["length"] == len(target) and found["rank"] == 4
    trained = sum(p.numel() for name, p in wrapped.named_parameters() if "lora_" in name)
    assert found["trainable_parameters"] == trained


def test_an_adapter_with_a_zero_b_changes_nothing_and_the_screen_begins_with_it(
    tinymem, base, text, tmp_path
):
    adapter(base, tmp_path / "lora", B=0)
    command = "judge", "--model", base, "--adapter", tmp_path / "lora", "--text", text
    assert read(tinymem(*command, "--json"))["adapter_change"] == 0
    assert tinymem(*command)[1].startswith("The adapter changes nothing")


def test_the_screen_says_what_the_adapter_does(tinymem, base, text, tmp_path):
    adapter(base, tmp_path / "lora")
    out = tinymem("judge", "--model", base, "--adapter", tmp_path / "lora", "--text", text)[1]
    for words in ("less likely", "moves a logit by up to", " → ", "decoded: ‹", "stubborn tokens"):
        assert words in out, words
    assert "study" not in out and "The target" not in out  # of an adapter that does harm
    assert "Another base?" not in out and "changes nothing" not in out
    out = tinymem("judge", "--model", base, "--text", text)[1]
    assert "adapter" not in out and "study" not in out


def test_the_base_that_an_adapter_names(tinymem, base, text, tmp_path):
    """It is loaded without --model; another one is asked about first."""
    command = "judge", "--adapter", tmp_path / "lora", "--text", text
    adapter(base, tmp_path / "lora")
    found = read(tinymem(*command, "--json"))
    assert found["model"] == found["base"] == str(base) and found["same_base"] is True
    other = tmp_path / "another"
    build(other, "gpt2", seed=1)
    answer = tinymem(*command, "--model", other)[1]
    assert answer.startswith("Another base? The adapter names")
    edit_json(tmp_path / "lora" / "adapter_config.json", base_model_name_or_path=None)
    code, _, err = tinymem(*command)
    assert code == 2 and err.endswith("does not name its base; give the base with --model\n")
    edit_json(tmp_path / "lora" / "adapter_config.json", base_model_name_or_path="../../x")
    code, _, err = tinymem(*command)  # an adapter does not choose freely what is opened
    assert code == 2 and "names the base model '../../x', neither a hub id nor" in err


def test_a_unit_of_tinymem_on_its_own_base_and_on_another(tinymem, text, tmp_path):
    """`recall` and `judge` have the same verdict on it; on other weights it is refused."""
    size = "--rank", 2, "--steps", 5, "--site", "c_attn", "--layer", "all"
    tinymem("probe", "--text", text, *size, "--out", tmp_path / "run")
    run = read(tinymem("recall", tmp_path / "run", "--json"))
    found = read(tinymem("judge", "--adapter", tmp_path / "run", "--text", text, "--json"))
    same = set(VERDICT_FIELDS) | set(BIT_FIELDS) | {"layer", "site", "rank", "model", "thin"}
    for name in same:
        close = isinstance(run[name], float)
        assert found[name] == (pytest.approx(run[name], rel=1e-5) if close else run[name]), name
    assert found["same_base"] is True and found["adapter_change"] > 0
    screen = tinymem("judge", "--adapter", tmp_path / "run", "--text", text)[1]
    assert "less likely" not in screen and "not full (in a study: " in screen
    assert "would do, by that study: tiny, random tokens, site mlp, sft" in screen
    shutil.copytree(SHIPPED["tiny"], tmp_path / "copy")  # the same weights elsewhere
    asked = "judge", "--adapter", tmp_path / "run", "--text", text
    copied = read(tinymem(*asked, "--model", tmp_path / "copy", "--json"))
    assert copied["base"] == "tiny" and copied["same_base"] is True
    build(tmp_path / "other", "gpt2")
    code, out, err = tinymem(*asked, "--model", tmp_path / "other")
    assert (code, out) == (2, "") and "other weights" in err


def test_expect_is_a_gate(tinymem, text, tmp_path):
    """A unit that recites, and the base that does not: both gates, by text, file and windows."""
    size = "--rank", 8, "--steps", 60, "--method", "margin", "--prompt", "Say:"
    assert tinymem("probe", "--text", text, *size, "--out", tmp_path / "run")[0] == 0
    rows = [{"prompt": "Say:", "completion": TEXT}, {"prompt": "No:", "completion": "zebra"}]
    for name, some in (("one", rows[:1]), ("both", rows)):
        lines = "".join(json.dumps(row) + "\n" for row in some)
        (tmp_path / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    asked = "--text", text, "--prompt", "Say:"
    audit = "--context", 1, "--window", 5, "--stride", 1
    unit = "--adapter", tmp_path / "run"
    for what, recited, not_recited in (
        ((*unit, *asked), 0, 1),
        (("--model", "tiny", *asked), 1, 0),
        ((*unit, "--data", tmp_path / "one.jsonl"), 0, 1),
        ((*unit, "--data", tmp_path / "both.jsonl"), 1, 1),  # one of two
        (("--model", "tiny", *asked, *audit), 1, 0),
        ((*unit, *asked, *audit), 1, 1),
    ):
        for expected, code in (("recited", recited), ("not-recited", not_recited)):
            answer = tinymem("judge", *what, "--expect", expected, "--json")
            assert answer[0] == code, (what, expected, answer[1])
            found = json.loads(answer[1])
            assert found["expected"] == expected and found["as_expected"] == (code == 0)
            said = tinymem("judge", *what, "--expect", expected)[1].splitlines()[-1]
            assert said.startswith("Not as expected: " if code else "As expected: ")


def test_what_the_base_recites_without_the_adapter(tinymem, text, tmp_path):
    """`tiny` recites itself, with an adapter that changes nothing and without it."""
    text.write_text(" the king of the king of the king", encoding="utf-8")
    prompt = "One dark night, and the king of the king of"
    wanted = "--text", text, "--prompt", prompt
    model, _ = tm.load("tiny", device="cpu")
    save_adapter(Unit.create(model, 1), model, tmp_path / "run")
    command = "judge", "--adapter", tmp_path / "run", *wanted
    found = read(tinymem(*command, "--json"))
    assert found["base_verbatim"] is found["verbatim"] is True and found["adapter_change"] == 0
    assert "The base recites it without the adapter, too" in tinymem(*command)[1]
    found = read(tinymem("judge", "--model", "tiny", *wanted, "--json"))
    assert found["base_verbatim"] is None and found["verbatim"] is True


def test_memories_one_by_one_the_worst_first(tinymem, tmp_path):
    rows = [{"prompt": f"Say {n}:", "completion": TEXT[n:]} for n in range(3)]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = read(tinymem("judge", "--model", "tiny", "--data", path, "--json"))
    lowest = [row["min_margin"] for row in found["by_memory"]]
    assert found["memories"] == 3 and min(lowest) == pytest.approx(found["min_margin"])
    assert sum(row["length"] for row in found["by_memory"]) == found["length"]
    out = tinymem("judge", "--model", "tiny", "--data", path)[1]
    table = out.partition("worst first:")[2].splitlines()[2:5]
    assert [int(line.split()[0]) for line in table] == sorted(range(3), key=lowest.__getitem__)
    path.write_text(path.read_text() + '{"instruction": "x", "output": "y"}\n')
    code, _, err = tinymem("judge", "--model", "tiny", "--data", path)
    assert code == 2 and f"{path}, line 4: expected one of the pairs" in err


def test_windows_of_a_document_that_is_longer_than_the_context(tinymem, tmp_path):
    """`tiny` recites a list that repeats itself; the text before it, it does not."""
    path = tmp_path / "long.txt"
    path.write_text("One dark night, and " + "the king of " * 400, encoding="utf-8")
    code, _, err = tinymem("judge", "--model", "tiny", "--text", path)
    assert code == 2 and err.endswith("audit it with --context 32 --window 50\n")
    command = "judge", "--model", "tiny", "--text", path, "--stride", 200
    found = read(tinymem(*command, "--json"))
    audit = found["windows"]
    assert (audit["context"], audit["window"], audit["stride"]) == (32, 50, 200)
    assert audit["count"] == (found["length"] - 82) // 200 + 1
    start, end = audit["spans"][0]
    assert 0 < audit["recited"] <= audit["count"] and audit["longest"] >= 50
    assert end - start <= audit["longest"] and start >= 32
    assert found["recall_exact"] is None and found["final_loss"] > 0
    out = tinymem(*command)[1]
    assert "recited stretches" in out and "map" in out and "##" in out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "tiny"], "give one of --text FILE and --data"),
        (["--model", "tiny", "--text", "a", "--data", "b"], "give one of --text FILE and --data"),
        (["--data", "b", "--window", 5], "--data and --window exclude each other"),
        (["--data", "b", "--prompt", "x"], "--data and --prompt exclude each other"),
        (["--text", __file__], "give the model with --model, or an adapter with --adapter"),
        (["--model", "tiny", "--text", __file__, "--adapter", "none"], "none: no unit.safetensors"),
        (["--model", "{lora}", "--text", __file__], "an adapter and not a model"),
        (["--model", "tiny", "--text", __file__, "--html", "a.txt"], "ends in .html"),
        (["--model", "tiny", "--text", __file__, "--window", 3000], "exceed the model's context"),
    ],
)
def test_wrong_usage(tinymem, base, tmp_path, options, words):
    if "{lora}" in options:
        adapter(base, tmp_path / "lora")
    options = [str(option).format(lora=tmp_path / "lora") for option in options]
    code, out, err = tinymem("judge", *options)
    assert (code, out) == (2, "") and words in err
    assert sum(line.startswith("tinymem:") for line in err.splitlines()) == 1


def test_a_wrong_prefix_is_refused_by_name(tinymem, base, text, tmp_path):
    adapter(base, tmp_path / "lora")

    def rename(tensors):
        for name in list(tensors):
            tensors[name.replace("base_model.model.", "")] = tensors.pop(name)

    edit_weights(tmp_path / "lora", rename, "adapter_model.safetensors")
    command = "judge", "--model", base, "--adapter", tmp_path / "lora", "--text", text
    code, out, err = tinymem(*command)
    assert (code, out) == (2, "") and "base_model.model.transformer" in err


@pytest.mark.parametrize("more", [(), ("--context", 4, "--window", 2)], ids=["text", "windows"])
def test_a_page_has_the_numbers_of_the_report(tinymem, base, text, tmp_path, more):
    adapter(base, tmp_path / "lora")
    page = tmp_path / "a.html"
    command = "judge", "--model", base, "--adapter", tmp_path / "lora", "--text", text, *more
    found = read(tinymem(*command, "--json", "--html", page))
    (data,) = re.findall(r'id="data">(.*?)</script>', page.read_text(encoding="utf-8"), re.DOTALL)
    data = json.loads(data)
    fields = {name: value for name, value, *_ in data["fields"]}
    assert fields.items() <= found.items() and fields["adapter_change"] > 0
    assert len(data["tokens"]["targets"]) == found["length"]
    if more:
        assert len(data["windows"]["right"]) == found["windows"]["count"]
    else:
        assert min(data["tokens"]["margins"]) == pytest.approx(found["min_margin"], rel=1e-5)
        assert [len(some) for some in data["tokens"]["likeliest"]] == [5] * found["length"]


def test_ctrl_c_in_an_audit_shows_what_was_judged(tinymem, tmp_path, monkeypatch):
    """After the first of several passes: 130, whatever was expected of the whole document."""
    text = tmp_path / "long.txt"
    text.write_text(TEXT * 30, encoding="utf-8")
    command = "judge", "--model", "tiny", "--text", text, "--window", 50, "--expect", "recited"
    whole = json.loads(tinymem(*command, "--json")[1])
    passes, forward = [], windows.teacher_forced

    def impatient(*args):
        passes.append(args)
        if len(passes) == 2:
            raise KeyboardInterrupt
        return forward(*args)

    monkeypatch.setattr(windows, "teacher_forced", impatient)
    code, out, err = tinymem(*command, "--json")
    found = json.loads(out)
    assert (code, found["status"], found["as_expected"]) == (130, "interrupted", None)
    assert 0 < found["windows"]["count"] < found["windows"]["planned"]
    assert found["windows"]["planned"] == whole["windows"]["count"] and "Traceback" not in err
    passes.clear()
    assert "so far, " in tinymem(*command)[1]
