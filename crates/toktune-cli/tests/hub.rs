//! Models of the Hub, from a server of this test's own.
#![cfg(feature = "hub")]

mod common;
use common::{Called, Work};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A small Hub: one model, whose files are in memory.
struct Hub {
    address: String,
    files: Arc<Mutex<BTreeMap<String, Vec<u8>>>>,
    asked: Arc<Mutex<Vec<String>>>,
}

const COMMIT: &str = "0123456789abcdef";

impl Hub {
    fn start(files: BTreeMap<String, Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = format!("http://{}", listener.local_addr().expect("an address"));
        let hub = Hub { address, files: Arc::new(Mutex::new(files)), asked: Arc::default() };
        let (files, asked) = (hub.files.clone(), hub.asked.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // a client that goes away is no concern of the next one's
                let _ = answer(stream, &files.lock().expect("files"), &asked);
            }
        });
        hub
    }
}

/// Answers one request and closes.
fn answer(
    mut stream: TcpStream,
    files: &BTreeMap<String, Vec<u8>>,
    asked: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_string();
    let (mut range, mut token) = (None, String::new());
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.trim().split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "range" => range = value.trim().strip_prefix("bytes=").map(str::to_string),
            "authorization" => token = value.trim().to_string(),
            _ => {}
        }
    }
    asked.lock().expect("asked").push(format!("{path} {token}"));
    let mut reply = |status: &str, headers: &str, body: &[u8]| {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n");
        stream.write_all(head.as_bytes())?;
        stream.write_all(body)
    };
    if path == "/api/models/tiny/llama/revision/main" {
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let info = serde_json::json!({"siblings": siblings, "sha": COMMIT});
        return reply("200 OK", "content-type: application/json\r\n", info.to_string().as_bytes());
    }
    if path == "/api/datasets/tiny/sums/revision/main" {
        let siblings: Vec<_> = files.keys().map(|name| serde_json::json!({"rfilename": name})).collect();
        let info = serde_json::json!({"siblings": siblings, "sha": COMMIT});
        return reply("200 OK", "content-type: application/json\r\n", info.to_string().as_bytes());
    }
    if path == "/api/models/gated/llama/revision/main" {
        return reply("401 Unauthorized", "", b"");
    }
    let below = |repo: &str| path.strip_prefix(&format!("/{repo}/resolve/main/")).map(str::to_string);
    let name = below("tiny/llama").or(below("datasets/tiny/sums"));
    let file = name.as_ref().and_then(|name| files.get(name));
    let (Some(file), Some(range)) = (file, range) else { return reply("404 Not Found", "", b"") };
    let (start, end) = range.split_once('-').unwrap_or_default();
    let start: usize = start.parse().unwrap_or(0);
    let end = end.parse().map_or(file.len(), |end: usize| (end + 1).min(file.len()));
    let tag: u64 = file.iter().fold(7, |hash: u64, b| hash.wrapping_mul(31).wrapping_add(u64::from(*b)));
    let headers = format!(
        "etag: \"{tag:x}\"\r\nx-repo-commit: {COMMIT}\r\ncontent-range: bytes {start}-{}/{}\r\n",
        end.saturating_sub(1),
        file.len()
    );
    reply("206 Partial Content", &headers, &file[start..end])
}

/// The program with this Hub and a cache in the workplace.
fn call(work: &Work, endpoint: &str, arguments: &[&str]) -> Called {
    let mut command = work.command(arguments);
    for proxy in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        command.env_remove(proxy);
    }
    command.env("HF_ENDPOINT", endpoint).env("HF_HOME", work.path("hf")).env("HF_TOKEN", "hf_secret");
    Called::of(command)
}

fn files(work: &Work) -> BTreeMap<String, Vec<u8>> {
    let names = ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"];
    names.map(|name| (name.to_string(), work.read(&format!("model/{name}")))).into()
}

#[test]
fn a_model_is_fetched_once_and_then_used_without_the_network() {
    let work = Work::new();
    let hub = Hub::start(files(&work));
    let told = call(&work, &hub.address, &["inspect", "tiny/llama"]).ok();
    assert!(told.out.contains("101 rows, 97 tokens"), "{}", told.out);
    assert!(told.err.contains("fetching model.safetensors of tiny/llama"), "{}", told.err);
    let asked = hub.asked.lock().expect("asked").clone();
    assert!(asked.iter().all(|request| request.ends_with("Bearer hf_secret")), "{asked:?}");
    // nobody listens there
    let train =
        ["train", "--model", "tiny/llama", "--data", "train.jsonl", "--output", "out", "--token", "w7"];
    let told = call(&work, "http://127.0.0.1:9", &train).ok();
    assert!(!told.err.contains("fetching"), "{}", told.err);
    assert_eq!(work.read_json("out/adapter_config.json")["base_model_name_or_path"], "tiny/llama");
}

#[test]
fn a_model_in_shards_is_fetched_by_its_index() {
    let work = Work::new();
    let mut all = files(&work);
    let weights = all.remove("model.safetensors").expect("weights");
    let length = u64::from_le_bytes(weights[..8].try_into().expect("8 bytes")) as usize;
    let header: serde_json::Value = serde_json::from_slice(&weights[8..8 + length]).expect("a header");
    let names = header.as_object().expect("an object").keys().filter(|name| *name != "__metadata__");
    let shard = "model-00001-of-00001.safetensors";
    let map: serde_json::Map<_, _> = names.map(|name| (name.clone(), shard.into())).collect();
    let index = serde_json::json!({"weight_map": map}).to_string();
    all.insert("model.safetensors.index.json".into(), index.into_bytes());
    let hub = Hub::start(all);
    call(&work, &hub.address, &["inspect", "tiny/llama"])
        .fails(1, &["names model-00001-of-00001.safetensors, which is not there"]);
    hub.files.lock().expect("files").insert(shard.into(), weights);
    call(&work, &hub.address, &["inspect", "tiny/llama"]).ok();
}

#[test]
fn what_cannot_be_had_is_told() {
    let work = Work::new();
    let mut all = files(&work);
    all.remove("model.safetensors");
    all.insert("tf_model.h5".into(), vec![1]);
    let hub = Hub::start(all);
    let told = |id: &str| call(&work, &hub.address, &["inspect", id]);
    told("tiny/llama")
        .fails(1, &["tiny/llama: it has neither model.safetensors nor", "there is tf_model.h5"]);
    told("tiny/other").fails(1, &["tiny/other: there is no such model"]);
    told("gated/llama").fails(1, &["gated/llama: no access", "HF_TOKEN"]);
    told("no-such-folder")
        .fails(1, &["no-such-folder: there is no such folder or file", "ORGANISATION/NAME"]);
    let config = hub.files.lock().expect("files").remove("config.json").expect("was there");
    told("tiny/llama").fails(1, &["it has no config.json"]);
    let offline = call(&work, "http://127.0.0.1:9", &["inspect", "tiny/llama"]);
    offline.fails(1, &["tiny/llama: cannot reach the Hub", "the cache in", "give the folder of a model"]);
    // what is there in torch's own form is fetched, and then found to be no such file
    let torch = ("pytorch_model.bin".to_string(), b"not a zip".to_vec());
    hub.files.lock().expect("files").extend([torch, ("config.json".into(), config)]);
    told("tiny/llama").fails(1, &["pytorch_model.bin: it begins with 'not '"]);
}

#[test]
fn a_set_of_data_is_fetched_by_its_split() {
    let work = Work::new();
    let rows = work.read("train.jsonl");
    let half = rows.iter().position(|byte| *byte == b'\n').expect("lines") + 1;
    let names = [
        "README.md",
        "main/train-00000-of-00002.jsonl",
        "main/train-00001-of-00002.jsonl",
        "main/test.jsonl",
    ];
    let contents = [b"about".to_vec(), rows[..half].to_vec(), rows[half..].to_vec(), rows[..half].to_vec()];
    let hub = Hub::start(names.map(str::to_string).into_iter().zip(contents).collect());
    let eval = |endpoint: &str, data: &str| {
        call(&work, endpoint, &["eval", "--model", "model", "--log-format", "json", "--data", data])
    };
    let expected = eval(&hub.address, "train.jsonl").ok().json()[0]["loss"].clone();
    let told = eval(&hub.address, "hf:tiny/sums").ok();
    assert_eq!(told.json()[0]["loss"], expected);
    assert!(told.err.contains("fetching main/train-00001-of-00002.jsonl of tiny/sums"), "{}", told.err);
    assert!(!told.err.contains("test.jsonl") && !told.err.contains("README"), "{}", told.err);
    // nobody listens there, and what was fetched is used
    assert_eq!(eval("http://127.0.0.1:9", "hf:tiny/sums/main:train").ok().json()[0]["loss"], expected);
    eval("http://127.0.0.1:9", "hf:tiny/sums:test").fails(1, &["hf:tiny/sums: no split `test`"]);
    eval(&hub.address, "hf:tiny/sums:dev").fails(1, &["no split `dev`", "`test`, `train`"]);
    eval(&hub.address, "hf:tiny/none").fails(1, &["tiny/none: there is no such model or file"]);
    eval(&hub.address, "hf:tiny").fails(1, &["expected ORGANISATION/NAME"]);
}
