//! Executes the conversions of a [`Resolution`] on encoded data, from the input's bytes to the output's. Values are built only for the parts that
//! change.

use super::decode::MAX_LEVELS;
use super::encode::{self, put_long};
use super::encode_error::{EncodeError, EncodeProblem};
use super::reader::Reader;
use super::resolve::{Conversion, ConversionId, Resolution, Source, Step};
use super::schema::{Field, Schema, Shape};
use super::types;

/// Converts data of `writer` to data of `output`.
pub(crate) struct Transcoder<'a> {
    pub writer: &'a Schema,
    pub output: &'a Schema,
    pub resolution: &'a Resolution,
}

impl<'a> Transcoder<'a> {
    /// Appends the conversion of the datum in `buf[start..end]`.
    pub fn convert(
        &self,
        conversion: ConversionId,
        buf: &'a [u8],
        (start, end): (usize, usize),
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let mut reader = Reader::new(buf, start, end)?;
        self.step(conversion, buf, &mut reader, out, 0)
    }

    fn step(
        &self,
        id: ConversionId,
        buf: &'a [u8],
        reader: &mut Reader<'a>,
        out: &mut Vec<u8>,
        level: usize,
    ) -> Result<(), EncodeError> {
        if level > MAX_LEVELS {
            return Err(EncodeProblem::Depth.into());
        }
        // Does not panic: conversions refer only to conversions of the same resolution.
        let step = &self.resolution.steps[id];
        let shape = &self.writer.node(step.writer).shape;
        match (&step.conversion, shape) {
            (Conversion::Copy, _) => {
                let start = reader.at;
                reader.skip(self.writer, step.writer, level)?;
                out.extend_from_slice(buf.get(start..reader.at).unwrap_or_default());
                Ok(())
            }
            (Conversion::Value, _) => {
                let value = reader.value(self.writer, step.writer, level)?;
                encode::encode(self.output, step.output, &value, out)
            }
            (Conversion::Symbols(places), Shape::Enum { symbols, .. }) => {
                let symbol = reader.symbol(symbols.len())?;
                match places[symbol] {
                    Some(place) => put_long(out, place as i64),
                    None => return Err(self.no_place(format!("symbol \"{}\"", symbols[symbol]), step)),
                }
                Ok(())
            }
            (Conversion::Branches(conversions), Shape::Union(branches)) => {
                let branch = reader.branch(branches.len())?;
                match conversions[branch] {
                    Some(conversion) => self.step(conversion, buf, reader, out, level),
                    None => Err(self.no_place(types::name_of(self.writer, branches[branch]), step)),
                }
            }
            (Conversion::Wrap { branch, inner }, _) => {
                put_long(out, *branch as i64);
                self.step(*inner, buf, reader, out, level)
            }
            (Conversion::Items(inner), Shape::Array(items)) => {
                let empty = self.writer.facts(*items).empty;
                let claim = |reader: &mut Reader<'a>| if empty { reader.claim_empty() } else { Ok(()) };
                let item = |reader: &mut Reader<'a>| {
                    claim(reader)?;
                    reader.skip(self.writer, *items, level + 1)
                };
                let count = reader.clone().items(empty, item)?.len();
                self.items(count, reader, out, empty, |reader, out| {
                    claim(reader)?;
                    self.step(*inner, buf, reader, out, level + 1)
                })
            }
            (Conversion::Entries(inner), Shape::Map(values)) => {
                let entry = |reader: &mut Reader<'a>| {
                    reader.string()?;
                    reader.skip(self.writer, *values, level + 1)
                };
                let count = reader.clone().items(false, entry)?.len();
                self.items(count, reader, out, false, |reader, out| {
                    encode::put_bytes(out, reader.string()?.as_bytes());
                    self.step(*inner, buf, reader, out, level + 1)
                })
            }
            (Conversion::Fields(sources), Shape::Record { fields, .. }) => {
                self.fields(sources, fields, buf, reader, out, level)
            }
            _ => Err(self.no_place(types::name_of(self.writer, step.writer), step)),
        }
    }

    /// Writes `count` items as one block.
    fn items(
        &self,
        count: usize,
        reader: &mut Reader<'a>,
        out: &mut Vec<u8>,
        empty: bool,
        mut item: impl FnMut(&mut Reader<'a>, &mut Vec<u8>) -> Result<(), EncodeError>,
    ) -> Result<(), EncodeError> {
        if count > 0 {
            put_long(out, count as i64);
        }
        reader.items(empty, |reader| item(reader, out))?;
        out.push(0);
        Ok(())
    }

    fn fields(
        &self,
        sources: &[Source],
        fields: &[Field],
        buf: &'a [u8],
        reader: &mut Reader<'a>,
        out: &mut Vec<u8>,
        level: usize,
    ) -> Result<(), EncodeError> {
        let mut starts = Vec::with_capacity(fields.len());
        for field in fields {
            starts.push(reader.clone());
            reader.skip(self.writer, field.node, level + 1)?;
        }
        for source in sources {
            match source {
                Source::Default(bytes) => out.extend_from_slice(bytes),
                Source::Input { field, conversion } => self
                    .step(*conversion, buf, &mut starts[*field].clone(), out, level + 1)
                    .map_err(|error| error.within(&format!(".{}", fields[*field].name)))?,
            }
        }
        Ok(())
    }

    #[cold]
    fn no_place(&self, value: String, step: &Step) -> EncodeError {
        let ty = types::name_of(self.output, step.output);
        EncodeProblem::NoPlace { value, ty }.into()
    }
}
