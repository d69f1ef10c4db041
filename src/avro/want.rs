//! The wanted positions of a datum: a tree that mirrors the part of the schema through which wanted paths run.
//!
//! The compiler walks schema and tree side by side, and marks where a wanted value starts and ends. Marks below one place have consecutive numbers:
//! when a key occurs twice in a map, the marks of the first occurrence can be cleared in one step.

use std::collections::BTreeMap;
use std::ops::Range;

/// A step from a type to a type within it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Step {
    /// A field of a record, by number.
    Field(usize),
    /// A branch of a union, by number.
    Branch(usize),
    /// An item of an array.
    Item(u32),
    /// The value of a key of a map.
    Key(String),
}

/// Index of a position in the array that a run fills.
pub(crate) type Mark = u32;

/// What is wanted at one place and below.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Want {
    /// Where the value starts.
    pub start: Option<Mark>,
    /// Where the value ends.
    pub end: Option<Mark>,
    /// What is wanted below.
    pub below: BTreeMap<Step, Want>,
    /// All marks here and below.
    pub marks: Range<Mark>,
}

/// Which end of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Edge {
    /// Its first byte.
    Start,
    /// After its last byte.
    End,
}

impl Want {
    /// Requests a position. What is returned is a placeholder until [`Want::number`] is called.
    pub fn ask(&mut self, trail: &[Step], edge: Edge, asked: &mut u32) -> Mark {
        match trail.split_first() {
            Some((step, rest)) => self.below.entry(step.clone()).or_default().ask(rest, edge, asked),
            None => {
                let mark = match edge {
                    Edge::Start => &mut self.start,
                    Edge::End => &mut self.end,
                };
                *mark.get_or_insert_with(|| {
                    *asked += 1;
                    *asked - 1
                })
            }
        }
    }

    /// Numbers the marks in the order of the tree. `final_marks[placeholder]` becomes the mark.
    pub fn number(&mut self, next: &mut Mark, final_marks: &mut [Mark]) {
        let first = *next;
        for mark in [&mut self.start, &mut self.end].into_iter().flatten() {
            final_marks[*mark as usize] = *next;
            *mark = *next;
            *next += 1;
        }
        self.below.values_mut().for_each(|want| want.number(next, final_marks));
        self.marks = first..*next;
    }

    /// A range that holds every mark that some data leave unset: those below a branch, an item or a key.
    pub fn conditional(&self) -> Range<Mark> {
        let join = |a: Range<Mark>, b: Range<Mark>| match (a.is_empty(), b.is_empty()) {
            (true, _) => b,
            (_, true) => a,
            _ => a.start.min(b.start)..a.end.max(b.end),
        };
        let below = self.below.iter().map(|(step, want)| match step {
            Step::Field(_) => want.conditional(),
            Step::Branch(_) | Step::Item(_) | Step::Key(_) => want.marks.clone(),
        });
        below.fold(0..0, join)
    }

    /// What is wanted one step below.
    pub fn at(&self, step: &Step) -> Option<&Want> {
        self.below.get(step)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_datum_may_leave_out_is_known() {
        let numbered = |trails: &[Vec<Step>]| {
            let (mut want, mut asked) = (Want::default(), 0);
            for trail in trails {
                want.ask(trail, Edge::Start, &mut asked);
            }
            want.number(&mut 0, &mut vec![0; asked as usize]);
            want.conditional()
        };
        let field = Step::Field;
        let always = [vec![], vec![field(0)], vec![field(0), field(1)]];
        assert!(numbered(&always).is_empty());
        for maybe in [Step::Branch(1), Step::Item(0), Step::Key("k".into())] {
            let one = [vec![field(0)], vec![field(1), maybe.clone()], vec![field(2)]];
            assert_eq!(numbered(&one), 1..2);
            let two = [
                vec![field(0), maybe.clone(), field(1)],
                vec![field(1)],
                vec![field(2), maybe],
            ];
            assert_eq!(numbered(&two), 0..3);
        }
    }

    #[test]
    fn marks_below_a_place_are_neighbours() {
        let (mut want, mut asked) = (Want::default(), 0);
        let key = Step::Key("k".into());
        let a = want.ask(&[key.clone(), Step::Field(0)], Edge::Start, &mut asked);
        let other = want.ask(&[Step::Key("z".into())], Edge::Start, &mut asked);
        let b = want.ask(&[key.clone(), Step::Field(3)], Edge::End, &mut asked);
        assert_eq!(
            a,
            want.ask(&[key.clone(), Step::Field(0)], Edge::Start, &mut asked),
            "asked twice is one mark"
        );
        let mut marks = vec![0; asked as usize];
        want.number(&mut 0, &mut marks);
        let range = want.at(&key).unwrap().marks.clone();
        assert_eq!(range.len(), 2);
        assert!(range.contains(&marks[a as usize]) && range.contains(&marks[b as usize]));
        assert!(!range.contains(&marks[other as usize]));
    }
}
