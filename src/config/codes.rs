//! All codes of findings. A code never changes once it has been released, so that users can search for it.
//!
//! MES00xx reading, MES01xx keys and values, MES02xx pipelines, MES03xx CQL, MES04xx the environment, MES05xx expressions, schemas and live services.

use serde::{Serialize, Serializer};

/// A stable code and what it means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// `MES0001` and so on.
    pub id: &'static str,
    /// One line.
    pub meaning: &'static str,
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

macro_rules! codes {
    ($($name:ident = $id:literal, $meaning:literal;)*) => {
        $(#[doc = $meaning] pub const $name: Code = Code { id: $id, meaning: $meaning };)*

        /// All codes, in order.
        pub const ALL: &[Code] = &[$($name),*];
    };
}

codes! {
    UNREADABLE_FILE = "MES0001", "A configuration file cannot be read as UTF-8 text.";
    SYNTAX = "MES0002", "The text is not TOML.";
    ENV_NAME = "MES0003", "The name of an environment variable is not a path of keys joined by double underscores.";
    NEEDS_RESTART = "MES0004", "A section changed that only a restart can apply: a reload replaces pipelines alone.";

    UNKNOWN_KEY = "MES0101", "A key that Messina does not know.";
    MISSING_KEY = "MES0102", "A required key or section is missing.";
    WRONG_TYPE = "MES0103", "A value of another type than the key takes.";
    UNKNOWN_CHOICE = "MES0104", "A word that is not among those the key takes.";
    MALFORMED = "MES0105", "A value that cannot be read as a duration, size, address, number or name.";
    STEP_KIND = "MES0107", "A step that does nothing, or more than one thing.";
    CONFLICT = "MES0108", "Keys that exclude one another, or that only make sense together.";

    NO_PIPELINE = "MES0201", "There is no pipeline to run.";
    DUPLICATE_STEP = "MES0202", "Two steps of a pipeline have the same name.";
    BAD_NAME = "MES0203", "A name that is reserved, or that cannot be used in an expression, a metric or a schema.";
    UNKNOWN_NAME = "MES0204", "An expression uses a name that is neither the event's, the record's nor an earlier step's.";
    LATER_STEP = "MES0205", "An expression uses a step that has not run by then.";
    STEP_WITHOUT_VALUES = "MES0206", "An expression uses a step that gives no values, or a value that the step does not give.";
    TOPIC_LOOP = "MES0207", "A pipeline publishes to a topic that it consumes.";
    DEAD_LETTER_TOPIC = "MES0208", "Dead letters go to a topic that the pipeline also consumes or publishes to.";
    SHARED_GROUP = "MES0209", "Two pipelines consume one topic in one group, so each sees only a part of it.";
    NO_STORE = "MES0210", "Look-ups, writes or references without a database.";
    NO_DEAD_LETTER = "MES0211", "A setting asks for dead letters in a pipeline without a dead-letter topic.";
    NO_EFFECT = "MES0212", "A pipeline that neither publishes nor writes.";
    UNKNOWN_REFERENCE = "MES0213", "A step names a reference that is not declared.";
    HIDDEN_WRITE = "MES0214", "A look-up's cache hides for a while what its own pipeline writes.";
    IDLE_GROUP = "MES0215", "A write with `group` whose rows are written one by one.";
    OTHER_KEY = "MES0216", "Outputs have another key than the input records, which decides their order.";

    WRONG_STATEMENT = "MES0301", "A statement that does not belong in this kind of step.";
    POSITIONAL_MARKER = "MES0302", "A positional marker where a named one is needed.";
    NOT_REPEATABLE = "MES0303", "A write that does not give the same row when it is repeated.";
    USING = "MES0304", "A clause that Messina sets itself.";
    UNUSED_BIND = "MES0305", "A bind for a marker that the statement does not have.";
    TWO_CLOCKS = "MES0306", "A table that is written both with and without a condition.";
    LATE_END = "MES0307", "A row whose life is longer than some databases accept.";

    OWNED_PROPERTY = "MES0401", "A librdkafka property that Messina sets itself, or a value of one that would break its promises.";
    MISSING_FILE = "MES0402", "A file that the configuration names is not there.";
    SECRET = "MES0403", "A secret that cannot be read.";
    MEMORY = "MES0404", "A memory budget that is too small.";
    URL = "MES0405", "A URL that cannot be used, or that carries a password.";
    DRAIN = "MES0406", "A drain that may last longer than the group waits.";
    PROPERTY = "MES0407", "A librdkafka property that librdkafka does not know, or whose value it does not take.";

    EXPRESSION = "MES0501", "A value or condition that is neither a path, a literal nor a CEL expression.";
    TYPES = "MES0502", "The pipeline does not fit the schemas, statements or topics of the live services.";
}
