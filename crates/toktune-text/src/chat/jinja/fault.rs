//! What can go wrong with a template.

/// A result of the engine.
pub(crate) type Result<T> = std::result::Result<T, Fault>;

/// Why a template was not compiled or rendered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: FaultKind,
    pub(crate) reason: String,
    /// The line in the source, from 1; 0 while unknown.
    pub(crate) line: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FaultKind {
    /// The source is no template.
    Syntax,
    /// The template called `raise_exception`.
    Refused,
    /// A bound was met.
    Limit,
    /// What jinja2 raises an exception for, or what this engine does not have.
    Failed,
}

impl Fault {
    fn new(kind: FaultKind, reason: impl Into<String>) -> Self {
        Fault { kind, reason: reason.into(), line: 0 }
    }

    pub(crate) fn syntax(line: u32, reason: impl Into<String>) -> Self {
        Fault { line, ..Fault::new(FaultKind::Syntax, reason) }
    }

    pub(crate) fn refused(reason: impl Into<String>) -> Self {
        Fault::new(FaultKind::Refused, reason)
    }

    pub(crate) fn limit(reason: impl Into<String>) -> Self {
        Fault::new(FaultKind::Limit, reason)
    }

    pub(crate) fn failed(reason: impl Into<String>) -> Self {
        Fault::new(FaultKind::Failed, reason)
    }

    /// With the line, unless a statement inside has given it.
    pub(crate) fn at(mut self, line: u32) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}
