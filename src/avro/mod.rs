//! Avro, compiled: reads the values that a pipeline needs and adds the new ones, without building the record.
//!
//! ```text
//!  schema JSON ─ parse ─► Schema ─ select (paths) ─► Want ─ compile ─► Program ─┐
//!                            │                                                 ├─► Plan: run(datum) ► marks ► values
//!                            └─ resolve (output schema) ─► pieces ─► Splice ◄───┘         │
//!                                                                      └── build(datum, marks, new values) ► datum
//! ```
//!
//! A [`Schema`] is an arena of nodes in which names are resolved. A [`Plan`] is compiled once per writer schema and list of
//! paths: a flat program that validates a whole datum while it passes over it, and records where the wanted values start
//! and end. A [`Splice`] is compiled once per writer schema and output schema: which runs of input bytes are copied
//! unchanged, which fields are converted, and which are new. Neither has state; what a run finds is in the caller's slice.
//!
//! Data are hostile until they are checked. No datum can make this code panic, read outside its bytes, exhaust the
//! stack, or use more memory or time than its length explains. The same holds for schemas.
//!
//! Differences from other libraries: most are stricter, because what they allow cannot be read everywhere. `int`s and
//! indexes longer than five bytes are refused, and so are `long`s with more than 64 bits, booleans other than 0 and 1,
//! strings that are not UTF-8, blocks whose size does not agree with their items, and bytes after the datum. Block counts
//! and sizes may be written in any way that the specification allows. One difference is more lenient: the rules of a logical
//! type are checked only where the value is read. Text that is not a UUID in canonical form, a decimal without bytes, and a
//! decimal with more digits than its precision pass unchanged unless something converts them.

mod careful;
mod compile;
mod convert;
mod converted;
mod cursor;
pub mod decimal;
mod decode;
mod default;
mod direct;
mod draft;
mod encodable;
mod encode;
mod encode_error;
mod error;
mod facts;
mod frames;
mod fuse;
mod graph;
mod inline;
pub mod json;
mod logical;
mod names;
pub mod output;
mod parse;
pub mod path;
mod plan;
mod program;
mod reader;
mod relation;
mod resolve;
mod run;
mod scan;
pub mod schema;
mod schema_error;
mod select;
mod splice;
mod transcode;
mod types;
pub mod uuid;
pub mod value;
mod vector;
mod want;

pub(crate) use convert::change_unit;
pub(crate) use converted::symbols_told;
pub use converted::{Converted, Renamed, Unplaced};
pub(crate) use decimal::rescale;
pub use decimal::text as decimal_text;
pub use encode_error::{EncodeError, EncodeProblem};
pub use error::DatumError;
pub use output::{NewField, OutputError, append_fields, avro_type};
pub use path::{PathError, PathProblem};
pub use plan::Plan;
pub use program::MAX_DEPTH;
pub use scan::PADDING;
pub use schema::Schema;
pub use schema_error::{SchemaError, SchemaProblem};
pub use splice::{PlanError, Splice, SpliceError};
pub use value::{Type, Unit, Value};
