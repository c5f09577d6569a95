//! `toktune tokens`: what a text is cut into, and which tokens are not plain pieces of text.

use crate::args::{LogFormat, TokensArgs};
use crate::failure::{Failure, Outcome};
use crate::load::{self, Loaded};
use crate::report;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::io::Write;
use toktune::text::{AutoTokenizer, TokenKind};

/// Tokens of a kind that text lists; JSON has them all.
const LISTED: usize = 64;

/// Shows texts as tokens, or lists the tokens that are no pieces of text.
pub fn run(args: &TokensArgs) -> Outcome {
    let (model, mut tokenizer) = Loaded::to_look_at(&args.model)?;
    load::set_languages(&mut tokenizer, &args.languages)?;
    let tokenizer =
        tokenizer.map_err(|reason| Failure::Failed(format!("tokens needs a tokenizer: {reason}")))?;
    let shown = Shown { tokenizer: &tokenizer, trained: model.tokens().into_iter().collect() };
    let json = args.output.log_format == LogFormat::Json;
    match args.text.is_empty() {
        true => shown.list(model.base().vocabulary(), json),
        false => args.text.iter().try_for_each(|text| shown.text(text, json)),
    }
}

/// A tokenizer with the tokens that an adapter trained.
struct Shown<'s> {
    tokenizer: &'s AutoTokenizer,
    trained: HashSet<u32>,
}

impl Shown<'_> {
    fn token(&self, id: u32) -> Value {
        let text = self.tokenizer.piece_text(id);
        json!({
            "id": id,
            "token": self.tokenizer.id_to_token(id),
            "text": text,
            "kind": self.tokenizer.kind(id),
            "begins_with_space": text.as_ref().is_some_and(|text| text.starts_with(' ')),
            "trained": self.trained.contains(&id),
        })
    }

    /// A text, in the tokenizer's frame.
    fn text(&self, text: &str, json: bool) -> Outcome {
        let ids = self.tokenizer.encode(text, true)?;
        let twin = match self.tokenizer.encode(text, false)?.as_slice() {
            [id] => self.tokenizer.space_twin(*id),
            _ => None,
        };
        if json {
            let tokens: Vec<Value> = ids.iter().map(|id| self.token(*id)).collect();
            let twin = twin.map(|id| self.token(id));
            let event = json!({"event": "text", "text": text, "tokens": tokens, "space_twin": twin});
            return Ok(report::json_line(&event)?);
        }
        let style = report::stdout_style();
        let mut out = std::io::stdout().lock();
        let header = format!("{} in {}", report::plural(ids.len(), "token"), quoted(text));
        writeln!(out, "{}", style.bold(&report::harmless(&header)))?;
        let lines: Vec<(String, String)> = ids.iter().map(|id| self.line(*id)).collect();
        for line in report::pairs(&lines, style) {
            writeln!(out, "  {line}")?;
        }
        if let Some(twin) = twin {
            let has_space = self.tokenizer.piece_text(twin).is_some_and(|text| text.starts_with(' '));
            let which = if has_space { "with a space before it" } else { "without the space before it" };
            writeln!(out, "{}", style.bold(which))?;
            for line in report::pairs(&[self.line(twin)], style) {
                writeln!(out, "  {line}")?;
            }
        }
        Ok(())
    }

    /// The id, and what there is to say of it.
    fn line(&self, id: u32) -> (String, String) {
        let token = self.tokenizer.id_to_token(id).unwrap_or_default();
        let text = self.tokenizer.piece_text(id).unwrap_or_default();
        let kind = match self.tokenizer.kind(id) {
            None | Some(TokenKind::Normal) => "",
            Some(kind) => kind.name(),
        };
        let about: Vec<&str> = [
            kind,
            if text.starts_with(' ') { "begins with a space" } else { "" },
            if self.trained.contains(&id) { "trained" } else { "" },
        ]
        .into_iter()
        .filter(|about| !about.is_empty())
        .collect();
        let spelled = if token == text { String::new() } else { format!("  {token}") };
        let about = if about.is_empty() { String::new() } else { format!("  ({})", about.join(", ")) };
        (id.to_string(), format!("{}{spelled}{about}", quoted(&text)))
    }

    /// The tokens that are no pieces of text, and the rows without a token.
    fn list(&self, rows: usize, json: bool) -> Outcome {
        let ids = self.tokenizer.ids();
        let taken: HashSet<u32> = ids.iter().copied().collect();
        let free: Vec<u32> = (0..rows as u32).filter(|id| !taken.contains(id)).collect();
        let of = |kind: TokenKind| -> Vec<u32> {
            ids.iter().copied().filter(|id| self.tokenizer.kind(*id) == Some(kind)).collect()
        };
        let kinds = [TokenKind::Special, TokenKind::Added, TokenKind::Reserved];
        if json {
            for id in kinds.into_iter().flat_map(of) {
                let mut token = self.token(id);
                token["event"] = "token".into();
                report::json_line(&token)?;
            }
            return Ok(report::json_line(&json!({
                "event": "vocabulary", "tokens": ids.len(), "rows": rows, "free_rows": free,
            }))?);
        }
        let style = report::stdout_style();
        let mut out = std::io::stdout().lock();
        for kind in kinds {
            let of_kind = of(kind);
            let title = format!("{}: {}", kind.name(), report::plural(of_kind.len(), "token"));
            writeln!(out, "{}", style.bold(&title))?;
            let lines: Vec<(String, String)> = of_kind.iter().take(LISTED).map(|id| self.line(*id)).collect();
            for line in report::pairs(&lines, style) {
                writeln!(out, "  {line}")?;
            }
            if of_kind.len() > LISTED {
                writeln!(out, "  and {} more (--log-format json has all)", of_kind.len() - LISTED)?;
            }
        }
        let ranges = ranges(&free);
        let shown = match ranges.len() {
            0 => String::new(),
            1..=8 => format!(": {}", ranges.join(", ")),
            _ => format!(": {}, …", ranges[..8].join(", ")),
        };
        let (tokens, rows) = (report::count(ids.len() as u64), report::count(rows as u64));
        let free = report::plural(free.len(), "row");
        writeln!(
            out,
            "{} {tokens} tokens, {rows} rows; {free} without a token{shown}",
            style.bold("in all")
        )?;
        Ok(())
    }
}

/// A text with its spaces and breaks to be seen.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\n', "\\n").replace('\r', "\\r").replace('\t', "\\t"))
}

/// Ids that follow each other, together.
fn ranges(ids: &[u32]) -> Vec<String> {
    let mut ranges: Vec<(u32, u32)> = Vec::new();
    for &id in ids {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == id => *last = id,
            _ => ranges.push((id, id)),
        }
    }
    let written =
        |(first, last): (u32, u32)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    ranges.into_iter().map(written).collect()
}
