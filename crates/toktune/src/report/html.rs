//! Markup whose data cannot become markup: elements are closed where they are opened, names are the program's own, and texts and
//! values of attributes are escaped on their way in.

use std::fmt::Write;

/// A page, or a part of one, as it is written.
#[derive(Debug, Default)]
pub(super) struct Html {
    out: String,
}

/// An attribute with its value.
pub(super) type Attribute<'a> = (&'static str, &'a str);

impl Html {
    /// What was written.
    pub(super) fn finish(self) -> String {
        self.out
    }

    /// An element with what `inside` writes.
    pub(super) fn tag(
        &mut self,
        name: &'static str,
        attributes: &[Attribute<'_>],
        inside: impl FnOnce(&mut Self),
    ) {
        self.open(name, attributes);
        inside(self);
        // writing to a string cannot fail
        let _ = write!(self.out, "</{name}>");
    }

    /// An element with a text of one line: line breaks are shown as signs.
    pub(super) fn leaf(&mut self, name: &'static str, attributes: &[Attribute<'_>], text: &str) {
        self.tag(name, attributes, |html| html.text(text));
    }

    /// An element that has no end.
    pub(super) fn void(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.open(name, attributes);
    }

    /// Text of one line.
    pub(super) fn text(&mut self, text: &str) {
        escape(text, false, &mut self.out);
    }

    /// Text in which line breaks are shown and break the line.
    pub(super) fn prose(&mut self, text: &str) {
        escape(text, true, &mut self.out);
    }

    /// Markup of the program's own.
    pub(super) fn own(&mut self, markup: &'static str) {
        self.out.push_str(markup);
    }

    fn open(&mut self, name: &'static str, attributes: &[Attribute<'_>]) {
        self.out.push('<');
        self.out.push_str(name);
        for (name, value) in attributes {
            let _ = write!(self.out, " {name}=\"");
            escape(value, false, &mut self.out);
            self.out.push('"');
        }
        self.out.push('>');
    }
}

/// Text that neither ends an element nor a value, nor does anything to the text around it: what cannot be seen is named.
fn escape(text: &str, breaks: bool, out: &mut String) {
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' if breaks => out.push_str("⏎\n"),
            '\n' => out.push('⏎'),
            '\t' => out.push('⇥'),
            hidden if is_hidden(hidden) => {
                let _ = write!(out, "⟨U+{:04X}⟩", u32::from(hidden));
            }
            other => out.push(other),
        }
    }
}

/// Whether a character does something that cannot be seen: controls, marks of direction (with which a text is made to read as
/// another one), spaces without width, tags and what is no character.
fn is_hidden(letter: char) -> bool {
    letter.is_control()
        || matches!(
            letter,
            '\u{ad}'
                | '\u{61c}'
                | '\u{115f}'
                | '\u{1160}'
                | '\u{180e}'
                | '\u{200b}'
                | '\u{200e}'
                | '\u{200f}'
                | '\u{2028}'..='\u{202e}'
                | '\u{2060}'..='\u{206f}'
                | '\u{3164}'
                | '\u{feff}'
                | '\u{fff9}'..='\u{fffb}'
                | '\u{e0000}'..='\u{e0fff}'
        )
        || u32::from(letter) & 0xfffe == 0xfffe
}

/// A text of at most so many characters: of a longer one the beginning, and how long it is.
pub(super) fn shortened(text: &str, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text.to_owned();
    }
    let kept: String = text.chars().take(most).collect();
    format!("{kept}… [{length} characters]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_stay_data() {
        let mut html = Html::default();
        let hostile = "</script><img src=x onerror=\"alert('1')\">&lt;";
        html.tag("p", &[("title", hostile)], |html| html.text(hostile));
        let escaped = "&lt;/script&gt;&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;lt;";
        assert_eq!(html.finish(), format!("<p title=\"{escaped}\">{escaped}</p>"));
    }

    #[test]
    fn what_cannot_be_seen_is_named() {
        let shown = |text: &str, breaks: bool| {
            let mut out = String::new();
            escape(text, breaks, &mut out);
            out
        };
        assert_eq!(shown("a\nb\tc\r", false), "a⏎b⇥c⟨U+000D⟩");
        assert_eq!(shown("a\nb", true), "a⏎\nb");
        assert_eq!(
            shown("\u{202e}gnp\u{200b}\u{1b}[2J\u{0}\u{2069}", false),
            "⟨U+202E⟩gnp⟨U+200B⟩⟨U+001B⟩[2J⟨U+0000⟩⟨U+2069⟩"
        );
        assert_eq!(shown("\u{e0041}\u{1fffe}\u{ffff}", false), "⟨U+E0041⟩⟨U+1FFFE⟩⟨U+FFFF⟩");
        // what belongs to writing stays
        for text in ["naïve 医薬 ‏".trim_end_matches('\u{200f}'), "क्\u{200d}ष", "می\u{200c}خواهم", "🙂"]
        {
            assert_eq!(shown(text, false), text);
        }
    }

    #[test]
    fn long_texts_are_cut_with_a_word() {
        assert_eq!(shortened("äöü", 3), "äöü");
        assert_eq!(shortened("äöüß", 3), "äöü… [4 characters]");
    }
}
