//! Which row of one tokenisation stands where a row of another does.

use super::Match;
use crate::text::{AutoTokenizer, TextError};
use std::collections::{HashMap, HashSet};

/// A text in tokens, each with the place in the text where it ends; none for tokens that are no part of it.
struct Places {
    ids: Vec<u32>,
    ends: Vec<Option<usize>>,
}

impl Places {
    fn of(tokenizer: &AutoTokenizer, text: &str) -> Result<Option<Self>, TextError> {
        let ids = tokenizer.encode(text, true)?;
        let own = tokenizer.encode_with_offsets(text)?;
        // what the tokenizer puts before a text is no part of it, and what it puts behind ends it
        let fits = |first: &usize| {
            ids[*first..].iter().zip(&own).all(|(id, (of_text, _))| id == of_text)
                && ids.len() - first >= own.len()
        };
        let Some(first) = (0..=ids.len().saturating_sub(own.len())).find(fits) else { return Ok(None) };
        let mut ends = vec![None; first];
        ends.extend(own.iter().map(|(_, (_, end))| Some(*end)));
        // several tokens may be one letter: the last of them ends it
        for row in 1..ends.len() {
            if ends[row].is_some() && ends[row] == ends[row - 1] {
                ends[row - 1] = None;
            }
        }
        Ok(Some(Self { ids: ids[..ends.len()].to_vec(), ends }))
    }
}

/// Both tokenisations of a text, the student's cut `after` tokens behind its first new one, and the rows that belong together.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Aligned {
    pub(super) student: Vec<u32>,
    pub(super) teacher: Vec<u32>,
    pub(super) matches: Vec<Match>,
}

/// Aligns two tokenisations of `text`; nothing where no new token is in it, or no row has a counterpart.
///
/// Rows belong together where their tokens end at the same place of the text and the same token follows, one that is not new.
pub(super) fn align(
    text: &str,
    before: &AutoTokenizer,
    with_words: &AutoTokenizer,
    new: &HashSet<u32>,
    after: usize,
) -> Result<Option<Aligned>, TextError> {
    let (Some(student), Some(teacher)) = (Places::of(with_words, text)?, Places::of(before, text)?) else {
        return Ok(None);
    };
    let Some(first) = student.ids.iter().position(|id| new.contains(id)) else { return Ok(None) };
    let of_end: HashMap<usize, usize> =
        teacher.ends.iter().enumerate().filter_map(|(row, end)| Some(((*end)?, row))).collect();
    let last = student.ids.len().min((first + 1).saturating_add(after));
    let mut matches = Vec::new();
    for row in first..last.saturating_sub(1) {
        let next = student.ids[row + 1];
        let Some(&of_teacher) = student.ends[row].and_then(|end| of_end.get(&end)) else { continue };
        if !new.contains(&next) && teacher.ids.get(of_teacher + 1) == Some(&next) {
            matches.push(Match { student: row, teacher: of_teacher, next });
        }
    }
    let Some(end) = matches.last().copied() else { return Ok(None) };
    let cut = |mut ids: Vec<u32>, row: usize| {
        ids.truncate(row + 2);
        ids
    };
    Ok(Some(Aligned {
        student: cut(student.ids, end.student),
        teacher: cut(teacher.ids, end.teacher),
        matches,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text::testing::byte_level;

    #[test]
    fn rows_that_end_alike_belong_together() {
        let before = byte_level().build().expect("a tokenizer");
        let mut with_words = before.clone();
        let id = with_words.add_tokens(&[" word"]).expect("added")[0];
        let new = HashSet::from([id]);
        let found =
            align("a word is a word.", &before, &with_words, &new, 50).expect("encoded").expect("aligned");
        let text = |tokenizer: &AutoTokenizer, ids: &[u32]| tokenizer.decode(ids, false).expect("decoded");
        assert_eq!(text(&with_words, &found.student), text(&before, &found.teacher));
        assert!(found.student.len() < found.teacher.len());
        for of in &found.matches {
            let (student, teacher) = (&found.student[..=of.student], &found.teacher[..=of.teacher]);
            assert_eq!(text(&with_words, student), text(&before, teacher), "{of:?}");
            assert_eq!([found.student[of.student + 1], found.teacher[of.teacher + 1]], [of.next; 2]);
        }
        // the row before the second word is followed by a new token
        let second = found.student.iter().rposition(|token| *token == id).expect("there");
        assert!(found.matches.iter().all(|of| of.student + 1 != second && of.student >= 1));
        assert_eq!(found.matches[0].student, found.student.iter().position(|t| *t == id).expect("there"));
    }

    #[test]
    fn a_text_is_cut_behind_its_word_and_needs_one() {
        let before = byte_level().build().expect("a tokenizer");
        let mut with_words = before.clone();
        let new: HashSet<u32> = with_words.add_tokens(&[" word"]).expect("added").into_iter().collect();
        let found = |text, after| align(text, &before, &with_words, &new, after).expect("encoded");
        assert_eq!(found("no such thing", 9), None);
        assert_eq!(found("the last word", 9), None);
        let cut = found("one word and many, many others behind it", 4).expect("aligned");
        let first = cut.student.iter().position(|id| new.contains(id)).expect("there");
        assert!(cut.student.len() <= first + 5 && cut.matches.len() <= 4, "{cut:?}");
    }
}
