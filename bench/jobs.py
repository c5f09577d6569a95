"""What is compared: runs of one program on one set of rows, and the jobs that set several of them side by side."""

from dataclasses import dataclass, replace

from prepare import EXAMPLES, LENGTHS, LORA_RANK

# What --peers chooses from, with the program of each (programs.py).
PEERS = {
    "plain": "PEFT",
    "checkpointing": "PEFT-checkpointing",
    "compile": "PEFT-compile",
    "unsloth": "Unsloth",
    "full": "full-matrix",
}


@dataclass(frozen=True)
class Run:
    """One program on the rows of one kind. Two jobs that hold the same run share its measurements."""

    program: str  # of programs.py
    precision: str  # toktune's --precision, or the peer's torch type
    rows: str  # a kind of rows, see prepare.py
    source: str = "folder"  # what the model is read from: "folder" (bf16) or "gguf"
    batch: int = 8
    accumulation: int = 1  # batches of one optimizer step
    lora: bool = False  # LoRA beside the tokens, from the adapter that prepare.py makes
    held_out: str = None  # a kind of rows whose loss is taken after the last step

    @property
    def key(self):
        return "/".join([self.program, self.precision, self.source, self.rows] + ["lora"] * self.lora)


@dataclass(frozen=True)
class Job:
    """A comparison: toktune's runs beside the peers'; without PEFT's, toktune's runs along the length of the rows."""

    title: str  # two short lines, for the plot; the second is the precisions
    about: str
    toktune: tuple  # as it is by default first
    peft: Run = None
    only_named: bool = False  # takes so long that it is not run unless --jobs names it
    peers: tuple = ()  # out of PEERS, run whatever --peers says
    shape: str = None  # out of models.SHAPES, for a job that belongs to one of them; the others run on every model

    def beside(self, peers):
        """The runs of PEFT's company: `peers`, out of PEERS, and the job's own."""
        chosen = [name for name in PEERS if name in peers or name in self.peers] if self.peft else []
        # LoRA is not trained beside the full matrix
        return [replace(self.peft, program=PEERS[name]) for name in chosen if not (name == "full" and self.peft.lora)]

    def runs(self, peers):
        return [*self.toktune, *self.beside(peers)]


def both_budgets(run):
    """toktune by default, and with no more memory than it needs in any case."""
    return (run, replace(run, program="toktune-min"))


def shape_job(shape, about, batch):
    """Random weights and rows in the shape of a model; every row depends on a trained token, every token is a label."""
    return Job(
        "nothing to skip\nauto | bf16",
        f"random weights in the shape of {shape}, {about}, a trained token in front and every token a label",
        both_budgets(Run("toktune", "auto", "random", batch=batch)),
        Run("PEFT", "bfloat16", "random", batch=batch),
        only_named=True,
        peers=("full",),
        shape=shape,
    )


def prefix_job(title, about, rows, lora=False):
    """Eight rows a step that begin with the same worked examples. PEFT cannot take eight in 24 GB: it gets them by twos."""
    return Job(
        f"{title}\nauto | bf16",
        about,
        (Run("toktune", "auto", rows, lora=lora),),
        Run("PEFT", "bfloat16", rows, batch=2, accumulation=4, lora=lora),
        only_named=True,
    )


JOBS = {
    "gsm8k": Job(
        "answers learnt\nauto | bf16",
        "three marker tokens in the answers, questions masked; `--precision auto` against bf16",
        both_budgets(Run("toktune", "auto", "gsm8k")),
        Run("PEFT", "bfloat16", "gsm8k"),
    ),
    "gsm8k-f32": Job(
        "answers learnt\nf32 | f32",
        "three marker tokens in the answers, questions masked; `--precision f32` against float32",
        (Run("toktune", "f32", "gsm8k"),),
        Run("PEFT", "float32", "gsm8k"),
    ),
    "worst": Job(
        "nothing to skip\nauto | bf16",
        "a trained token in front of every row and every token a label: nothing can be skipped",
        both_budgets(Run("toktune", "auto", "worst")),
        Run("PEFT", "bfloat16", "worst"),
    ),
    "worst-f32": Job(
        "nothing to skip\nf32 | f32",
        "rows of worst; `--precision f32` against float32",
        (Run("toktune", "f32", "worst"),),
        Run("PEFT", "float32", "worst"),
    ),
    "gguf": Job(
        "from the GGUF file\nauto | bf16",
        "rows of gsm8k; toktune `auto` from the quantized file, PEFT (which cannot train one) in bf16 from the folder",
        (Run("toktune", "auto", "gsm8k", "gguf"),),
        Run("PEFT", "bfloat16", "gsm8k"),
    ),
    "lora": Job(
        f"LoRA, rank {LORA_RANK}\nauto | bf16",
        f"rows of gsm8k; LoRA of rank {LORA_RANK} on all linear layers beside the three tokens, both from one adapter",
        (Run("toktune", "auto", "gsm8k", lora=True),),
        Run("PEFT", "bfloat16", "gsm8k", lora=True),
    ),
    "prefix-constant": prefix_job(
        "examples before all",
        f"{EXAMPLES} worked examples in front of every row, no trained token in them; PEFT takes 4 times 2 rows a step",
        "prefix-constant",
    ),
    "prefix-trained": prefix_job(
        "trained in examples",
        f"{EXAMPLES} worked examples in front of every row, with the trained tokens; PEFT takes 4 times 2 rows a step",
        "prefix-trained",
    ),
    "prefix-lora": prefix_job(
        "examples, LoRA",
        "rows of prefix-constant with the LoRA of lora, so that no row is constant; PEFT takes 4 times 2 rows a step",
        "prefix-constant",
        lora=True,
    ),
    "opt-125m": shape_job("opt-125m", "8 rows of 128 tokens a step", 8),
    "gemma-2-2b": shape_job("gemma-2-2b", "one row of 256 tokens a step", 1),
    "long": Job(
        "one long row",
        "toktune alone, one row a step as in worst, by its length",
        tuple(Run("toktune", "auto", f"long-{n}", batch=1) for n in LENGTHS),
    ),
}
