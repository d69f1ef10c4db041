//! Errors of a datum: the reasons why bytes are not a datum of a schema.
//!
//! They are permanent: the record becomes a dead letter. An error is a small `Copy` value, so that detecting one costs only the branch.
//!
//! Positions count bytes from the start of what was read: the datum in [`Plan::run`](super::Plan::run) and [`Schema::decode`](super::Schema::decode),
//! the whole buffer in [`Plan::value`](super::Plan::value).

/// Why bytes are not a datum of the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DatumError {
    /// The bytes end inside a value.
    #[error("truncated at byte {at}")]
    Truncated {
        /// Where the bytes end.
        at: usize,
    },
    /// An `int`, enum index or union index of more than 32 bits or five bytes, or a `long` of more than 64 bits.
    #[error("number of more than {bits} bits at byte {at}")]
    VarintOverflow {
        /// The limit in bits: 32 or 64.
        bits: u8,
        /// Where the number starts.
        at: usize,
    },
    /// A string or bytes with a negative length.
    #[error("negative length at byte {at}")]
    NegativeLength {
        /// Where the length starts.
        at: usize,
    },
    /// A union index that names no branch.
    #[error("union index {index} of {branches} branches at byte {at}")]
    UnionIndex {
        /// The index found.
        index: i32,
        /// How many branches the union has.
        branches: u32,
        /// Where the index starts.
        at: usize,
    },
    /// An enum index that names no symbol.
    #[error("enum index {index} of {symbols} symbols at byte {at}")]
    EnumIndex {
        /// The index found.
        index: i32,
        /// How many symbols the enum has.
        symbols: u32,
        /// Where the index starts.
        at: usize,
    },
    /// A boolean other than 0 and 1.
    #[error("boolean {value} at byte {at}")]
    Boolean {
        /// The byte found.
        value: u8,
        /// Where it is.
        at: usize,
    },
    /// A string that is not UTF-8.
    #[error("string that is not UTF-8 at byte {at}")]
    Utf8 {
        /// Where the text starts (after its length).
        at: usize,
    },
    /// A block of an array or map that claims more items than there are bytes left.
    #[error("block of {count} items with {left} bytes left at byte {at}")]
    BlockCount {
        /// The items claimed.
        count: u64,
        /// The bytes that are left for them.
        left: usize,
        /// Where the block starts.
        at: usize,
    },
    /// A block whose size in bytes is negative, reaches past the end of the datum, or is not that of its items.
    #[error("block whose size in bytes is wrong at byte {at}")]
    BlockSize {
        /// Where the size starts, or where the items end.
        at: usize,
    },
    /// Nested deeper than [`MAX_DEPTH`](super::MAX_DEPTH), or deeper than the 128 levels that are decoded or converted.
    #[error("nested too deeply at byte {at}")]
    Depth {
        /// Where the value starts that is nested too deeply.
        at: usize,
    },
    /// Bytes after the datum.
    #[error("{count} bytes behind the datum, which ends at byte {at}")]
    Trailing {
        /// How many.
        count: usize,
        /// Where the datum ends.
        at: usize,
    },
    /// A string of logical type `uuid` that is not a UUID. Found only when the value is read.
    #[error("string that is not a UUID at byte {at}")]
    Uuid {
        /// Where the text starts.
        at: usize,
    },
    /// More zero-byte values (an array of nulls) than is sensible to build. Found only when the value is read.
    #[error("{count} more values without bytes at byte {at}: too many")]
    EmptyItems {
        /// The items claimed.
        count: u64,
        /// Where the block starts.
        at: usize,
    },
    /// Positions are 32 bits wide: a datum, together with what precedes it in the buffer, must be shorter than 4 GiB.
    #[error("buffer of {bytes} bytes: more than 4 GiB")]
    TooLarge {
        /// Bytes from the start of the buffer to the end of the datum.
        bytes: usize,
    },
    /// The range of the datum lies outside the buffer, or `marks` has less room than the plan needs. A mistake of the
    /// caller, not of the data.
    #[error("datum outside its buffer, or too little room for marks")]
    Caller,
}
