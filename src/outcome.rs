//! The outcomes of an event: done, skipped or dead-lettered. Every consumed record has exactly one of them, or is given up and consumed again, here
//! or elsewhere. The three counts, the count of those given up and the number in flight add up to what was consumed.
//!
//! Neither a retry nor a fatal error is an outcome: the offset of such an event stays unfinished, and nothing is committed past it.

/// The end of an event. In each case all effects of the event are acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Every step ran; rows are written, and the output record, if there is a sink, is delivered.
    Done,
    /// Excluded by a filter, or by `on_missing = "skip"`.
    Skipped,
    /// It can never succeed; it is delivered to the dead-letter topic with the reason.
    DeadLettered,
}

impl Outcome {
    /// All outcomes.
    pub const ALL: [Outcome; 3] = [Outcome::Done, Outcome::Skipped, Outcome::DeadLettered];

    /// The value of the `outcome` label.
    pub fn as_str(self) -> &'static str {
        match self {
            Outcome::Done => "done",
            Outcome::Skipped => "skipped",
            Outcome::DeadLettered => "dead_lettered",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_its_name() {
        assert_eq!(Outcome::ALL.map(Outcome::as_str), ["done", "skipped", "dead_lettered"]);
    }
}
