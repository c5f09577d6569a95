//! The library speaks of fields, the command line of flags: the table between them.

/// Fields of the library's settings as its messages write them, each with its flag.
const FIELDS: [(&str, &str); 9] = [
    ("`batch_size`", "--batch-size"),
    ("`loss_on`", "--loss-on"),
    ("`max_length`", "--max-length"),
    ("`mlm_probability`", "--mlm-probability"),
    ("`resize_token_embeddings`", "--resize"),
    ("`resume`", "--resume"),
    ("`resume_anyway`", "--resume-anyway"),
    ("`save_embedding_layers`", "--save-embedding-layers"),
    ("`target_modules`", "--target-modules"),
];

/// A message of the library with flags in the place of fields.
pub fn in_flags(message: &str) -> String {
    FIELDS.iter().fold(message.to_owned(), |message, (field, flag)| message.replace(field, flag))
}

/// The same for a message about what LoRA is put on: the field that says so has the name of the tokens' own.
pub fn in_lora_flags(message: &str) -> String {
    in_flags(&message.replace("`target_modules`", "--lora-target-modules"))
}

/// The same for a message about a form of `export`: functions of the library are values of a flag here.
pub fn in_forms(message: &str) -> String {
    in_flags(&message.replace("`export_gguf`", "--to gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::Cli;
    use clap::CommandFactory;

    #[test]
    fn every_flag_of_the_table_is_one() {
        let mut command = Cli::command();
        command.build();
        let of = |name: &str| command.find_subcommand(name).expect("the command is there");
        for (field, flag) in FIELDS {
            let name = flag.trim_start_matches('-');
            let mut flags = of("train").get_arguments().chain(of("merge").get_arguments());
            assert!(flags.any(|arg| arg.get_long() == Some(name)), "{flag}");
            assert!(field.trim_matches('`').replace('_', "-").starts_with(name), "{field}");
        }
        assert_eq!(in_flags("`max_length` is 0, `text` is empty"), "--max-length is 0, `text` is empty");
    }
}
