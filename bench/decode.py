"""Tokens a second while generating: toktune, llama.cpp (llama-cpp-python) and transformers in bf16, in turn.

    python bench/decode.py --toktune target/release/toktune --gguf MODEL.gguf --folder BF16_FOLDER

Every program goes on greedily from the same prompt, and the time of the first token (reading the model, the prompt) is taken
off. Programs that are not asked for are left out: without --gguf, llama.cpp; without --folder, transformers.
"""
import argparse, os, statistics, subprocess, sys, time

PROMPT = "Once upon a time there was a little girl who lived in a village near the forest."


def toktune(binary, model, tokens, threads, precision):
    def seconds(count):
        command = [binary, "generate", "--model", model, "--prompt", PROMPT, "--max-new-tokens", str(count)]
        command += ["--threads", str(threads), "--precision", precision]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        return time.perf_counter() - start

    first = seconds(1)
    return tokens / (seconds(tokens + 1) - first)


def llama(model, tokens, threads):
    import llama_cpp, numpy

    options = {"n_ctx": 1024, "n_threads": threads, "n_threads_batch": threads, "verbose": False}
    model = llama_cpp.Llama(model, **options)
    model.eval(model.tokenize(PROMPT.encode()))
    start = time.perf_counter()
    for _ in range(tokens):
        logits = llama_cpp.llama_get_logits(model._ctx.ctx)
        model.eval([int(numpy.ctypeslib.as_array(logits, (model.n_vocab(),)).argmax())])
    return tokens / (time.perf_counter() - start)


def transformers(folder, tokens, threads):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    ids = AutoTokenizer.from_pretrained(folder)(PROMPT, return_tensors="pt").input_ids

    def seconds(count):
        start = time.perf_counter()
        model.generate(ids, do_sample=False, max_new_tokens=count, min_new_tokens=count)
        return time.perf_counter() - start

    first = seconds(1)
    return tokens / (seconds(tokens + 1) - first)


def peer(name, path, tokens, threads):
    """A run of another program in a process of its own."""
    command = [sys.executable, __file__, "--peer", name, "--path", path]
    command += ["--tokens", str(tokens), "--threads", str(threads)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    found = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return float(found.stdout.split()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--toktune")
    parser.add_argument("--gguf")
    parser.add_argument("--folder")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--peer", choices=["llama", "transformers"], help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    of = parser.parse_args()
    if of.peer:
        print({"llama": llama, "transformers": transformers}[of.peer](of.path, of.tokens, of.threads))
        return
    runs = {}
    for model, name in [(of.gguf, "GGUF"), (of.folder, "folder")]:
        if of.toktune and model:
            for precision in ["auto", "bf16"]:
                run = lambda model=model, precision=precision: toktune(
                    of.toktune, model, of.tokens, of.threads, precision
                )
                runs[f"toktune, {name}, {precision}"] = run
    if of.gguf:
        runs["llama.cpp, GGUF"] = lambda: peer("llama", of.gguf, of.tokens, of.threads)
    if of.folder:
        runs["transformers, folder, bf16"] = lambda: peer("transformers", of.folder, of.tokens, of.threads)
    found = {name: [] for name in runs}
    for _ in range(of.turns):
        for name, run in runs.items():
            found[name].append(run())
    print(f"tokens/s, medians of {of.turns} turns (lowest to highest), {of.threads} threads")
    for name, rates in found.items():
        print(f"{name:28} {statistics.median(rates):7.1f} ({min(rates):.1f} to {max(rates):.1f})")


if __name__ == "__main__":
    main()
