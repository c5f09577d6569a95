//! The page: its sections in the order in which somebody wants them.

use super::contents::Report;
use super::html::{Html, shortened};
use super::{curves, map_drawing, preview, tokens, verdict, written};

/// Letters of a value in the list of what was run, and of the command line.
const VALUE: usize = 600;
const COMMAND: usize = 4000;

type Section = (&'static str, &'static str, fn(&Report, &mut Html));

/// Each with the name that leads to it and its heading.
const SECTIONS: [Section; 7] = [
    ("verdict", "Verdict", verdict::section),
    ("curves", "Curves", curves::section),
    ("tokens", "Tokens", tokens::section),
    ("texts", "What it writes", written::section),
    ("map", "Map", map_drawing::section),
    ("data", "Data", preview::section),
    ("run", "What was run", run),
];

impl Report {
    /// The page, as one HTML document that needs nothing else: no scripts, and nothing is fetched. Whatever the run's data, tokens
    /// and paths hold is text there.
    pub fn html(&self) -> String {
        let mut html = Html::default();
        html.own("<!DOCTYPE html>\n");
        html.tag("html", &[("lang", "en")], |html| {
            html.tag("head", &[], |html| self.head(html));
            html.own("\n");
            html.tag("body", &[], |html| {
                html.tag("header", &[], |html| {
                    html.leaf("h1", &[], &shortened(&self.title, 120));
                    html.tag("nav", &[], |html| {
                        for (id, name, _) in SECTIONS {
                            html.leaf("a", &[("href", &format!("#{id}"))], name);
                        }
                    });
                });
                html.tag("main", &[], |html| {
                    for (id, name, write) in SECTIONS {
                        html.own("\n");
                        html.tag("section", &[("id", id)], |html| {
                            html.leaf("h2", &[], name);
                            write(self, html);
                        });
                    }
                });
                html.own("\n");
                html.leaf(
                    "footer",
                    &[],
                    "Written by toktune. This page shows rows of the data and paths of the machine: look at it before you share \
                     the folder.",
                );
            });
        });
        html.own("\n");
        html.finish()
    }

    fn head(&self, html: &mut Html) {
        html.void("meta", &[("charset", "utf-8")]);
        html.void("meta", &[("name", "viewport"), ("content", "width=device-width, initial-scale=1")]);
        html.void("meta", &[("name", "color-scheme"), ("content", "light dark")]);
        // nothing may be fetched or run, whatever the page holds
        let policy = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";
        html.void("meta", &[("http-equiv", "Content-Security-Policy"), ("content", policy)]);
        html.leaf("title", &[], &format!("{} – toktune", shortened(&self.title, 120)));
        html.own("<style>\n");
        html.own(include_str!("style.css"));
        html.own("</style>");
    }
}

/// The command and what it ran on.
fn run(report: &Report, html: &mut Html) {
    if let Some(command) = &report.command {
        html.leaf("pre", &[("class", "command")], &shortened(command, COMMAND));
    }
    html.tag("div", &[("class", "facts")], |html| {
        for group in report.facts.iter().filter(|group| !group.facts.is_empty()) {
            html.tag("div", &[], |html| {
                html.leaf("h3", &[], &shortened(&group.title, 120));
                html.tag("dl", &[], |html| {
                    for (name, value) in &group.facts {
                        html.leaf("dt", &[], &shortened(name, 120));
                        html.leaf("dd", &[], &shortened(value, VALUE));
                    }
                });
            });
        }
    });
}
