//! A template's source as tokens, cut as jinja2's lexer does with `trim_blocks` and `lstrip_blocks`, which is how
//! transformers sets it up.

use std::sync::Arc;

use super::fault::{Fault, Result};

/// A token and the line that it begins in.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub(super) line: u32,
    pub(super) kind: TokenKind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum TokenKind {
    /// Text between tags.
    Text(Arc<str>),
    /// `{{` and `}}`.
    PrintBegin,
    PrintEnd,
    /// `{%` and `%}`.
    TagBegin,
    TagEnd,
    Name(Arc<str>),
    Str(Arc<str>),
    Int(i128),
    Float(f64),
    Operator(&'static str),
    End,
}

/// Operators, longer ones first.
const OPERATORS: [&str; 26] = [
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<",
    "=", ".", ":", "|", ",", ";",
];

struct Lexer<'s> {
    source: &'s str,
    at: usize,
    line: u32,
    tokens: Vec<Token>,
    /// Whether the text so far ends a line.
    line_starting: bool,
}

/// Cuts a source into tokens.
pub(super) fn tokenize(source: &str) -> Result<Vec<Token>> {
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, tokens: Vec::new(), line_starting: true };
    lexer.run()?;
    Ok(lexer.tokens)
}

impl<'s> Lexer<'s> {
    fn rest(&self) -> &'s str {
        &self.source[self.at..]
    }

    fn push(&mut self, kind: TokenKind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    /// Goes on by this many bytes.
    fn skip(&mut self, bytes: usize) {
        let passed = &self.source[self.at..self.at + bytes];
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count() as u32;
        if bytes > 0 {
            self.line_starting = passed.ends_with('\n');
        }
        self.at += bytes;
    }

    fn skip_spaces(&mut self) {
        let spaces = self.rest().len() - self.rest().trim_start().len();
        self.skip(spaces);
    }

    fn run(&mut self) -> Result<()> {
        while self.at < self.source.len() {
            let Some(offset) = self.next_tag() else {
                self.text(self.rest().len(), None, false);
                break;
            };
            let opening = &self.rest()[offset..offset + 2];
            let sign = self.rest()[offset + 2..].chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let opened = 2 + usize::from(sign.is_some());
            self.text(offset, sign, opening != "{{");
            match opening {
                "{#" => self.comment(opened)?,
                "{{" => {
                    self.push(TokenKind::PrintBegin);
                    self.skip(opened);
                    self.inside("}}")?;
                }
                _ => match self.raw(opened) {
                    Some(length) => self.raw_text(length)?,
                    None => {
                        self.push(TokenKind::TagBegin);
                        self.skip(opened);
                        self.inside("%}")?;
                    }
                },
            }
        }
        self.push(TokenKind::End);
        Ok(())
    }

    /// How far the next tag is.
    fn next_tag(&self) -> Option<usize> {
        let bytes = self.rest().as_bytes();
        (0..bytes.len().saturating_sub(1))
            .find(|&at| bytes[at] == b'{' && matches!(bytes[at + 1], b'{' | b'%' | b'#'))
    }

    /// Takes text before a tag with this sign; a tag that is not printed takes the blanks before it in its line.
    fn text(&mut self, length: usize, sign: Option<char>, strips: bool) {
        let text = &self.rest()[..length];
        let kept = match sign {
            Some('-') => text.trim_end(),
            None if strips => {
                let start = text.rfind('\n').map_or(0, |newline| newline + 1);
                let blank = !text[start..].is_empty() && text[start..].trim().is_empty();
                match blank && (start > 0 || self.line_starting) {
                    true => &text[..start],
                    false => text,
                }
            }
            _ => text,
        };
        if !kept.is_empty() {
            self.push(TokenKind::Text(kept.into()));
        }
        self.skip(length);
    }

    fn comment(&mut self, opened: usize) -> Result<()> {
        let Some(end) = self.rest()[opened..].find("#}") else {
            return Err(Fault::syntax(self.line, "a comment without its end `#}`"));
        };
        let sign = self.rest()[opened..opened + end].chars().next_back();
        self.skip(opened + end + 2);
        self.after_tag(sign);
        Ok(())
    }

    /// What the end of a tag takes of the text behind it.
    fn after_tag(&mut self, sign: Option<char>) {
        match sign {
            Some('-') => self.skip_spaces(),
            Some('+') => {}
            _ if self.rest().starts_with('\n') => self.skip(1),
            _ => {}
        }
    }

    /// The length of a tag `raw`, if this is one.
    fn raw(&self, opened: usize) -> Option<usize> {
        let rest = &self.rest()[opened..];
        let inner = rest.trim_start().strip_prefix("raw")?.trim_start();
        let behind = match inner.strip_prefix("-%}") {
            Some(behind) => behind.trim_start(),
            None => inner.strip_prefix("%}")?,
        };
        Some(opened + rest.len() - behind.len())
    }

    fn raw_text(&mut self, length: usize) -> Result<()> {
        self.skip(length);
        let mut from = 0;
        while let Some(found) = self.rest()[from..].find("{%") {
            let start = from + found;
            let rest = &self.rest()[start + 2..];
            let sign = rest.chars().next().filter(|sign| matches!(sign, '-' | '+'));
            let inner = &rest[usize::from(sign.is_some())..];
            if let Some(end) = inner.trim_start().strip_prefix("endraw") {
                let end = end.trim_start();
                let end_sign = end.chars().next().filter(|sign| matches!(sign, '-' | '+'));
                if let Some(behind) = end[usize::from(end_sign.is_some())..].strip_prefix("%}") {
                    let tag = self.rest().len() - start - behind.len();
                    self.text(start, sign, true);
                    self.skip(tag);
                    self.after_tag(end_sign);
                    return Ok(());
                }
            }
            from = start + 2;
        }
        Err(Fault::syntax(self.line, "`raw` without its end"))
    }

    /// The tokens of a tag up to its end.
    fn inside(&mut self, end: &'static str) -> Result<()> {
        let begun = self.line;
        let mut open = Vec::new();
        loop {
            self.skip_spaces();
            let rest = self.rest();
            let Some(first) = rest.chars().next() else {
                return Err(Fault::syntax(begun, format!("a tag without its end `{end}`")));
            };
            if open.is_empty() {
                let signed = usize::from(first == '-' || (first == '+' && end == "%}"));
                if rest[signed..].starts_with(end) {
                    self.push(if end == "}}" { TokenKind::PrintEnd } else { TokenKind::TagEnd });
                    self.skip(signed + 2);
                    match (first, end) {
                        ('-', _) => self.skip_spaces(),
                        (_, "%}") => self.after_tag(Some(first)),
                        _ => {}
                    }
                    return Ok(());
                }
            }
            if first.is_ascii_digit() {
                self.number()?;
            } else if first == '\'' || first == '"' {
                self.string(first)?;
            } else if first.is_alphanumeric() || first == '_' {
                let length = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_');
                let name = &rest[..length.unwrap_or(rest.len())];
                self.push(TokenKind::Name(name.into()));
                self.skip(name.len());
            } else {
                let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator));
                let Some(operator) = operator else {
                    return Err(Fault::syntax(self.line, format!("unexpected {first:?}")));
                };
                match operator {
                    "(" | "[" | "{" => open.push(operator),
                    ")" | "]" | "}" => {
                        let opening = open.pop();
                        if !matches!(
                            (opening, operator),
                            (Some("("), ")") | (Some("["), "]") | (Some("{"), "}")
                        ) {
                            return Err(Fault::syntax(self.line, format!("unexpected `{operator}`")));
                        }
                    }
                    _ => {}
                }
                self.push(TokenKind::Operator(operator));
                self.skip(operator.len());
            }
        }
    }

    fn number(&mut self) -> Result<()> {
        let rest = self.rest();
        let bad = |line| Fault::syntax(line, "a number that cannot be read");
        let bytes = rest.as_bytes();
        let radix = match bytes.get(1) {
            Some(b'x' | b'X') if bytes[0] == b'0' => 16,
            Some(b'o' | b'O') if bytes[0] == b'0' => 8,
            Some(b'b' | b'B') if bytes[0] == b'0' => 2,
            _ => 10,
        };
        let digits = |from: usize| {
            let length = rest[from..].find(|letter: char| !letter.is_digit(radix) && letter != '_');
            length.map_or(rest.len(), |length| from + length)
        };
        if radix != 10 {
            let end = digits(2);
            let number = i128::from_str_radix(&rest[2..end].replace('_', ""), radix);
            self.push(TokenKind::Int(number.map_err(|_| bad(self.line))?));
            self.skip(end);
            return Ok(());
        }
        let mut end = digits(0);
        let mut float = false;
        let attribute = matches!(self.tokens.last(), Some(Token { kind: TokenKind::Operator("."), .. }));
        if !attribute {
            if bytes.get(end) == Some(&b'.') && bytes.get(end + 1).is_some_and(u8::is_ascii_digit) {
                end = digits(end + 1);
                float = true;
            }
            if matches!(bytes.get(end), Some(b'e' | b'E')) {
                let sign = usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
                if bytes.get(end + 1 + sign).is_some_and(u8::is_ascii_digit) {
                    end = digits(end + 1 + sign);
                    float = true;
                }
            }
        }
        let text = rest[..end].replace('_', "");
        let kind = match float {
            true => TokenKind::Float(text.parse().map_err(|_| bad(self.line))?),
            false => TokenKind::Int(text.parse().map_err(|_| bad(self.line))?),
        };
        self.push(kind);
        self.skip(end);
        Ok(())
    }

    fn string(&mut self, quote: char) -> Result<()> {
        let rest = self.rest();
        let mut text = String::new();
        let mut letters = rest.char_indices().skip(1);
        while let Some((at, letter)) = letters.next() {
            if letter == quote {
                self.push(TokenKind::Str(text.into()));
                self.skip(at + 1);
                return Ok(());
            }
            if letter != '\\' {
                text.push(letter);
                continue;
            }
            let Some((_, escape)) = letters.next() else { break };
            let mut number = |digits: usize, radix: u32, first: Option<u32>| {
                let mut code = first.unwrap_or(0);
                for _ in 0..digits {
                    let digit = letters.clone().next().and_then(|(_, digit)| digit.to_digit(radix));
                    match digit {
                        Some(digit) => code = code * radix + digit,
                        None if radix == 8 => break,
                        None => return None,
                    }
                    letters.next();
                }
                char::from_u32(code)
            };
            let decoded = match escape {
                'n' => Some('\n'),
                't' => Some('\t'),
                'r' => Some('\r'),
                'a' => Some('\u{7}'),
                'b' => Some('\u{8}'),
                'f' => Some('\u{c}'),
                'v' => Some('\u{b}'),
                '\\' | '\'' | '"' => Some(escape),
                '\n' => continue,
                'x' => number(2, 16, None),
                'u' => number(4, 16, None),
                'U' => number(8, 16, None),
                '0'..='7' => number(2, 8, escape.to_digit(8)),
                'N' => None,
                other => {
                    text.push('\\');
                    Some(other)
                }
            };
            match decoded {
                Some(letter) => text.push(letter),
                None => return Err(Fault::syntax(self.line, format!("the escape `\\{escape}` in a text"))),
            }
        }
        Err(Fault::syntax(self.line, "a text without its closing quote"))
    }
}
