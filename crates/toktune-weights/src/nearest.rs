//! The name that was meant, for messages about one that is not there.

/// The name among `names` that is nearest to `wanted`, when it is near enough to be meant.
pub fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(wanted, name), name))
        .filter(|(distance, name)| *distance <= name.len().max(wanted.len()).div_ceil(3))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The end of a message about a missing name: nothing when no name is near.
pub fn did_you_mean(nearest: &Option<String>) -> String {
    nearest.as_ref().map(|name| format!("; did you mean '{name}'?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_near_name_is_meant() {
        assert_eq!(nearest("lm_haed", ["lm_head", "norm"]), Some("lm_head"));
        assert_eq!(nearest("bias", ["lm_head", "norm"]), None);
        assert_eq!(nearest("bias", []), None);
    }

    #[test]
    fn a_message_ends_with_the_name_if_there_is_one() {
        assert_eq!(did_you_mean(&Some("norm".into())), "; did you mean 'norm'?");
        assert_eq!(did_you_mean(&None), "");
    }
}
