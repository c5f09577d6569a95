//! What can go wrong between workers.

/// Why several processes cannot train together, or not go on.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkersError {
    /// There are more than there is work for.
    #[error(
        "{found} processes for {most} micro-batches a step (`gradient_accumulation_steps`): expected 1 to {most}; best are those that \
         {most} can be divided by"
    )]
    TooMany {
        /// The processes.
        found: usize,
        /// Micro-batches of a step.
        most: usize,
    },
    /// Another process cannot be reached.
    #[error("process {worker} cannot be reached: {reason}")]
    Unreachable {
        /// Its number.
        worker: usize,
        /// What the transport says.
        reason: String,
    },
    /// A message that this program does not send.
    #[error(
        "process {from} sent what this program does not send: expected the same version of it in every process"
    )]
    Message {
        /// The sender's number.
        from: usize,
    },
    /// A process trains something else.
    #[error(
        "process {worker} on {machine} does not train the same as process 0: {}",
        .differences.join("; ")
    )]
    Other {
        /// Its number.
        worker: usize,
        /// Where it runs.
        machine: String,
        /// What is otherwise there, and what was expected.
        differences: Vec<String>,
    },
}
