//! The merges of a byte-pair vocabulary: parsed from a GGUF file's list, or rebuilt from the vocabulary.

use std::collections::HashMap;

use crate::TextError;

/// Left and right piece of each merge, best first.
pub(super) type Merges = Vec<(String, String)>;

/// Parses `left right` lines and checks that both pieces and their concatenation are tokens.
///
/// The check is made here because the tokenizers crate names only the missing piece, not the line.
pub(super) fn parse(lines: &[String], ids: &HashMap<&str, u32>) -> Result<Merges, TextError> {
    let mut joined = String::new();
    let mut merges = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let wrong = |reason: String| TextError::GgufMerge { index, merge: line.clone(), reason };
        let (left, right) = line
            .split_once(' ')
            .filter(|(left, right)| !left.is_empty() && !right.is_empty() && !right.contains(' '))
            .ok_or_else(|| wrong("expected two pieces with one space between".to_owned()))?;
        joined.clear();
        joined.push_str(left);
        joined.push_str(right);
        if let Some(piece) = [left, right, joined.as_str()].into_iter().find(|piece| !ids.contains_key(piece))
        {
            return Err(wrong(format!("`{piece}` is not a token")));
        }
        merges.push((left.to_owned(), right.to_owned()));
    }
    Ok(merges)
}

/// Every way to build a token from two others, ranked: higher `rank[id]` of the built token first, then the
/// longer left piece. This is what transformers does for SentencePiece vocabularies, whose files list no
/// merges.
///
/// The cost is one look-up per character of each left piece: half a million merges for a vocabulary of a
/// quarter of a million take well under a second.
pub(super) fn rebuild(tokens: &[String], ids: &HashMap<&str, u32>, rank: impl Fn(u32) -> f32) -> Merges {
    let mut found: Vec<(f32, usize, &str, &str)> = Vec::new();
    for (id, token) in tokens.iter().enumerate() {
        // The length of the left piece in characters is the number of the cut.
        for (length, (cut, _)) in token.char_indices().enumerate().skip(1) {
            let (left, right) = token.split_at(cut);
            if ids.contains_key(left) && ids.contains_key(right) {
                found.push((rank(id as u32), length, left, right));
            }
        }
    }
    // Stable, so that what is left equal keeps the order of the vocabulary.
    found.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));
    found.into_iter().map(|(_, _, left, right)| (left.to_owned(), right.to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(tokens: &[String]) -> HashMap<&str, u32> {
        tokens.iter().enumerate().map(|(id, token)| (token.as_str(), id as u32)).collect()
    }

    fn strings(tokens: &[&str]) -> Vec<String> {
        tokens.iter().map(|token| token.to_string()).collect()
    }

    #[test]
    fn merges_are_ranked_by_the_token_they_build_then_by_the_longer_left_piece() {
        let tokens = strings(&["a", "b", "é", "ab", "abé", "bé"]);
        let merges = rebuild(&tokens, &ids(&tokens), |id| -(id as f32));
        let expected = [("a", "b"), ("ab", "é"), ("a", "bé"), ("b", "é")];
        assert_eq!(merges, expected.map(|(l, r)| (l.to_owned(), r.to_owned())));
        let by_score = rebuild(&tokens, &ids(&tokens), |id| if id == 5 { 1.0 } else { 0.0 });
        assert_eq!(by_score[0], ("b".to_owned(), "é".to_owned()));
    }

    #[test]
    fn a_bad_merge_names_its_line() {
        let tokens = strings(&["a", "b", "ab"]);
        for (line, reason) in [("ab", "two pieces"), ("a b c", "two pieces"), ("a c", "`c`"), ("b a", "`ba`")]
        {
            let error = parse(&strings(&["a b", line]), &ids(&tokens)).unwrap_err().to_string();
            assert!(error.contains("merge 1") && error.contains(reason), "{line}: {error}");
        }
    }
}
