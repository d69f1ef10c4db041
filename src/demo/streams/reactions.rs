//! Reactions to the messages of campaigns: no order, so the last write must win by its timestamp; a look-up that skips what it does not find; a key
//! expression for the output.

use std::sync::Arc;

use super::parts::{money, words};
use super::{BODIES, Draw, Fate, Job, Table};
use crate::demo::datum::Datum;
use crate::demo::random::{Random, Zipf};
use crate::demo::world::{CAMPAIGNS, World};

/// Symbols of the schema's enum `ReactionKind`.
const KINDS: [&str; 6] = ["SENT", "OPEN", "CLICK", "CONVERSION", "BOUNCE", "UNSUBSCRIBE"];
const SENT: usize = 0;
const CLICK: usize = 2;
const BOUNCE: usize = 4;
/// Kinds, each as often as its share demands.
const MIX: [usize; 12] = [SENT, SENT, 1, 1, 1, 1, 1, CLICK, CLICK, 3, BOUNCE, 5];
/// The first campaign's number.
const FIRST_CAMPAIGN: i64 = 1000;
/// Number of campaigns that reactions name and the database does not have.
const UNKNOWN_CAMPAIGNS: usize = 20;

/// A body, and its values that the pipeline's steps use.
struct Body {
    bytes: Vec<u8>,
    kind: usize,
    url: Option<String>,
}

/// The job `reactions`.
pub struct Reactions {
    world: Arc<World>,
    campaigns: Zipf,
    bodies: Vec<Body>,
}

impl Reactions {
    /// Encodes the bodies.
    pub fn new(world: Arc<World>) -> Reactions {
        let campaigns = Zipf::new(CAMPAIGNS + UNKNOWN_CAMPAIGNS, 0);
        Reactions {
            world,
            campaigns,
            bodies: (0..BODIES as u64).map(body).collect(),
        }
    }

    fn campaign(&self, draw: &Draw) -> usize {
        self.campaigns.draw(&mut Random::new(draw.other, 0))
    }
}

/// The number of a campaign, whether it exists or not.
pub fn campaign_id(campaign: usize) -> i64 {
    FIRST_CAMPAIGN + campaign as i64
}

/// Makes a body: the part of the datum after the campaign's number.
fn body(number: u64) -> Body {
    let random = &mut Random::new(0x5245, number);
    let datum = &mut Datum::default();
    let kind = random.one_of(&MIX);
    datum.long(kind as i64).long(random.below(3) as i64);
    datum.text(&words(random, 6)).text("fr-FR");
    datum.list(0..4usize, |d, n| {
        d.text(&format!("variable_{n}"));
        match n {
            0 => d.long(0),
            1 => d.long(1).text(&words(random, 2)),
            2 => d.long(2).long(random.below(10_000) as i64),
            _ => d.long(3).double(0.5),
        };
    });
    let url = (kind == CLICK).then(|| format!("https://shop.example.com/{}", words(random, 3).replace(' ', "/")));
    datum.option(url.as_ref(), |d, url| {
        d.text(url).long(random.below(12) as i64);
        d.list(["source", "medium", "content"].iter(), |d, name| {
            d.text(name).text(&words(random, 1));
        });
    });
    datum.option((kind == BOUNCE).then_some("mailbox full"), |d, reason| {
        d.long(452).text(reason).boolean(false);
    });
    datum.option((kind == 3).then(|| 500 + random.below(30_000) as i64), |d, cents| {
        money(d, cents, 0)
    });
    datum.list(0..random.below(6) as usize, |d, _| {
        d.long(1 + random.below(5000) as i64).long(random.below(3) as i64);
    });
    datum.list(0..1 + random.below(4) as usize, |d, _| {
        d.text(&words(random, 1));
    });
    let day = 20_000 + random.below(30) as i64;
    datum.long(day).long(day * 86_400_000 + 32_400_000);
    datum.fixed(&random.bits().to_be_bytes());
    let bytes = std::mem::take(&mut datum.0);
    Body { bytes, kind, url }
}

impl Job for Reactions {
    fn name(&self) -> &'static str {
        "reactions"
    }

    fn fate(&self, draw: &Draw) -> Fate {
        let engaged = !matches!(self.bodies[draw.body].kind, SENT | BOUNCE);
        let known = self.world.campaign(self.campaign(draw)).is_some();
        if engaged && known {
            Fate::Published
        } else {
            Fate::Skipped
        }
    }

    fn tombstone(&self) -> Fate {
        Fate::Skipped
    }

    fn datum(&self, draw: &Draw, time_ms: i64, datum: &mut Datum) {
        datum
            .long(draw.sequence.cast_signed())
            .long(time_ms)
            .text(self.world.user_id(draw.user));
        datum
            .long(campaign_id(self.campaign(draw)))
            .fixed(&self.bodies[draw.body].bytes);
    }

    fn enrichment(&self, draw: &Draw, datum: &mut Datum) {
        let campaign = self.world.campaign(self.campaign(draw));
        datum.option(campaign, |d, c| {
            d.text(&c.name);
        });
        datum.option(campaign, |d, c| {
            d.text(c.brand);
        });
        datum.option(self.world.profile(draw.user), |d, p| {
            d.text(p.segment);
        });
        datum.long(if self.bodies[draw.body].kind == CLICK { 2 } else { 1 });
    }

    fn output_key(&self, draw: &Draw, key: &mut Vec<u8>) {
        key.extend_from_slice(campaign_id(self.campaign(draw)).to_string().as_bytes());
    }

    fn is_ordered(&self) -> bool {
        false
    }

    fn largest(&self) -> usize {
        64 + self.bodies.iter().map(|body| body.bytes.len()).max().unwrap_or(0)
    }

    fn tables(&self) -> &'static [Table] {
        &[
            Table {
                name: "last_reactions",
                columns: "sequence, user_id, kind",
                last_of_user: true,
            },
            Table {
                name: "clicks",
                columns: "sequence, user_id, campaign_id, url",
                last_of_user: false,
            },
        ]
    }

    fn write_steps(&self) -> &'static [&'static str] {
        &["last", "click"]
    }

    fn writes(&self, table: usize, draw: &Draw) -> bool {
        table == 0 || self.bodies[draw.body].kind == CLICK
    }

    fn row_is_right(&self, table: usize, draw: &Draw, row: &rusqlite::Row<'_>) -> rusqlite::Result<bool> {
        let body = &self.bodies[draw.body];
        if row.get::<_, String>(1)? != self.world.user_id(draw.user) {
            return Ok(false);
        }
        match table {
            0 => Ok(row.get::<_, String>(2)? == KINDS[body.kind]),
            _ => Ok(row.get::<_, i64>(2)? == campaign_id(self.campaign(draw))
                && row.get::<_, Option<String>>(3)? == body.url),
        }
    }
}
