//! Files damaged in thousands of ways: reading one is an error or works, and never panics or allocates far
//! beyond the file's own size.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::Path;
use toktune_weights::{Bytes, Checkpoint, Gguf, Pytorch, Safetensors};

#[path = "common/read_all.rs"]
mod read_all;
#[path = "../src/testing.rs"]
#[allow(dead_code, missing_docs)]
mod testing;
use read_all::read_all;
use testing::{GgufBytes, Random, TorchFile, array, safetensors_f32, text};

/// The system's allocator, which notes the largest request of each thread.
struct Noting;

thread_local! {
    static LARGEST: Cell<usize> = const { Cell::new(0) };
}

// SAFETY: every call is passed on to the system's allocator as it came.
unsafe impl GlobalAlloc for Noting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that is ending has no cell any more; what it allocates then is of no interest.
        let _ = LARGEST.try_with(|largest| largest.set(largest.get().max(layout.size())));
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of `dealloc`, and `alloc` above took the memory from
        // `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Noting = Noting;

/// Well above what the small files here need, well below what any of their counts could ask for.
const MOST: usize = 1 << 20;

/// `bytes` with one to four changes: a byte replaced, a bit flipped, eight bytes replaced by a number that is
/// often a limit, a part removed or repeated, or the end cut off.
fn damaged(bytes: &[u8], random: &mut Random) -> Vec<u8> {
    const LIMITS: [u64; 8] =
        [0, 1, u64::MAX, 1 << 63, i64::MAX as u64, u32::MAX as u64, 1 << 40, u64::MAX - 31];
    let mut bytes = bytes.to_vec();
    for _ in 0..1 + random.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = random.below(bytes.len());
        let end = (at + 1 + random.below(16)).min(bytes.len());
        match random.below(7) {
            0 => bytes[at] = random.next() as u8,
            1 | 2 => bytes[at] ^= 1 << random.below(8),
            3 | 4 => {
                let limit = LIMITS[random.below(LIMITS.len())].to_le_bytes();
                for (byte, limit) in bytes[at..].iter_mut().zip(limit) {
                    *byte = limit;
                }
            }
            5 => drop(bytes.drain(at..end)),
            _ if random.below(4) == 0 => bytes.truncate(at),
            _ => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    bytes
}

/// Reads `count` damaged versions of a sound file.
fn survive(sound: &[u8], count: u64, open: impl Fn(Bytes) -> toktune_weights::Result<Checkpoint>) {
    assert!(read_all(open(Bytes::owned(sound.to_vec()))), "the file is sound before it is damaged");
    let mut opened = 0;
    for seed in 0..count {
        let bytes = damaged(sound, &mut Random::new(seed));
        LARGEST.set(0);
        opened += read_all(open(Bytes::owned(bytes))) as u64;
        assert!(LARGEST.get() < MOST, "seed {seed}: {} bytes at once", LARGEST.get());
    }
    // Else the damage is so coarse, or so fine, that little of the reader is reached.
    assert!(opened > count / 100 && opened < count, "{opened} of {count} opened");
}

#[test]
fn damaged_gguf_files() {
    let sound = GgufBytes::new()
        .pair("general.architecture", 8, &text("llama"))
        .pair("llama.block_count", 4, &2u32.to_le_bytes())
        .pair("llama.eps", 6, &1e-5f32.to_le_bytes())
        .pair("flag", 7, &[1])
        .pair("tokens", 9, &array(8, 3, &[text("a"), text("bc"), text("")].concat()))
        .pair("scores", 9, &array(6, 3, &[0; 12]))
        .pair("nested", 9, &array(9, 2, &[array(0, 2, &[1, 2]), array(7, 1, &[1])].concat()))
        .tensor("token_embd.weight", &[32, 4], 8, &[1; 136])
        .tensor("blk.0.attn_q.weight", &[256, 2], 12, &[2; 288])
        .tensor("blk.0.attn_k.weight", &[256, 2], 23, &[3; 272])
        .tensor("blk.0.attn_v.weight", &[256, 2], 29, &[255; 112])
        .tensor("output_norm.weight", &[4], 0, &[0; 16])
        .build();
    survive(&sound, 6000, |bytes| Gguf::from_bytes(Path::new("m.gguf"), bytes).map(Checkpoint::Gguf));
}

#[test]
fn damaged_safetensors_files() {
    let sound = safetensors_f32(&[
        ("model.embed_tokens.weight", &[4, 2], &[1.0; 8]),
        ("model.norm.weight", &[2], &[0.5; 2]),
        ("scalar", &[], &[3.0]),
    ]);
    survive(&sound, 6000, |bytes| {
        Safetensors::from_bytes(Path::new("m.safetensors"), bytes).map(Checkpoint::Safetensors)
    });
}

/// A file of torch with what such files can have.
fn torch_file() -> TorchFile {
    TorchFile::new()
        .f32("model.embed_tokens.weight", &[4, 2], &[1.0; 8])
        .tensor("lm_head.weight", "FloatStorage", 0, 0, &[4, 2], &[2, 1])
        .tensor("transposed", "FloatStorage", 0, 2, &[2, 3], &[1, 2])
        .tensor("repeated", "FloatStorage", 0, 0, &[9, 2], &[0, 1])
        .storage(&[0; 16])
        .tensor("half", "HalfStorage", 1, 4, &[3], &[1])
        .tensor("position_ids", "LongStorage", 1, 0, &[1, 2], &[2, 1])
        .tensor("other", "ComplexFloatStorage", 1, 0, &[2], &[1])
        .value("step", b"K\x01")
}

#[test]
fn damaged_torch_files() {
    survive(&torch_file().build(), 12000, |bytes| {
        Pytorch::from_bytes(Path::new("m.bin"), bytes).map(Checkpoint::Pytorch)
    });
}

#[test]
fn damaged_torch_files_of_before_1_6() {
    survive(&torch_file().build_stream(&[4, 8]), 12000, |bytes| {
        Pytorch::from_bytes(Path::new("m.bin"), bytes).map(Checkpoint::Pytorch)
    });
}

#[test]
fn damaged_parts_of_gguf_files() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |number: u16| folder.path().join(format!("m-{number:05}-of-00002.gguf"));
    let part = |number: u16| {
        GgufBytes::new()
            .pair("split.no", 2, &number.to_le_bytes())
            .pair("split.count", 2, &2u16.to_le_bytes())
            .pair("split.tensors.count", 5, &4i32.to_le_bytes())
            .tensor(&format!("blk.{number}.a"), &[256, 2], 11, &[2; 220])
            .tensor(&format!("blk.{number}.b"), &[32, 2], 39, &[1; 34])
            .build()
    };
    for damaged in [0, 1] {
        std::fs::write(path(2 - damaged), part(1 - damaged)).expect("written");
        // written anew and not in place: what is mapped must stay as it is
        survive(&part(damaged), 1500, |bytes| {
            std::fs::remove_file(path(1 + damaged)).ok();
            std::fs::write(path(1 + damaged), &*bytes).expect("written");
            Checkpoint::open(&path(1))
        });
    }
}
