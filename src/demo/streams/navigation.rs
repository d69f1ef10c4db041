//! Navigation: actions of visitors of web sites, the largest stream. Order by user, a cached look-up, a write if the visitor agreed to it. Bots and
//! heartbeats are skipped.

use std::sync::Arc;

use super::parts::{geo, late, money, uuid, words};
use super::{BODIES, Draw, Fate, Job, Table};
use crate::demo::datum::Datum;
use crate::demo::random::Random;
use crate::demo::world::World;

/// Symbols of the schema's enum `Kind`.
const KINDS: [&str; 5] = ["VIEW", "CLICK", "SCROLL", "SEARCH", "HEARTBEAT"];
const HEARTBEAT: usize = 4;

/// A body, and its values that the pipeline's steps use.
struct Body {
    bytes: Vec<u8>,
    kind: usize,
    bot: bool,
    analytics: bool,
    url: String,
    /// In cents.
    total: Option<i64>,
}

/// The job `navigation`.
pub struct Navigation {
    world: Arc<World>,
    bodies: Vec<Body>,
}

impl Navigation {
    /// Encodes the bodies.
    pub fn new(world: Arc<World>) -> Navigation {
        Navigation {
            world,
            bodies: (0..BODIES as u64).map(body).collect(),
        }
    }
}

/// Makes a body: the part of the datum after the user's id.
fn body(number: u64) -> Body {
    let random = &mut Random::new(0x4E41, number);
    let datum = &mut Datum::default();
    let consent = (!random.once_in(4)).then(|| !random.once_in(5));
    datum.text(&uuid(random));
    datum.option(consent, |d, analytics| {
        d.boolean(analytics)
            .list(0..1 + random.below(5) as usize, |d, purpose| {
                d.long(purpose as i64);
            });
    });
    let place = (!random.once_in(3)).then_some(());
    datum.option(place, |d, ()| geo(d, random));
    datum
        .long(random.below(4) as i64)
        .text(&format!("Mozilla/5.0 ({}) Gecko/20100101", words(random, 3)));
    datum.option((!random.once_in(5)).then(|| 320 + random.below(2000)), |d, width| {
        d.long(width as i64).long(width as i64 * 9 / 16).float(2.0);
    });
    let bot = random.once_in(25);
    let kind = random.below(KINDS.len() as u64) as usize;
    datum.boolean(bot).long(kind as i64);

    let url = format!(
        "https://shop.example.com/{}/{number}",
        words(random, 2).replace(' ', "/")
    );
    datum.text(&url);
    datum.option((!random.once_in(6)).then(|| words(random, 5)), |d, title| {
        d.text(&title);
    });
    datum.option(random.once_in(2).then(|| words(random, 2)), |d, referrer| {
        d.text(&format!("https://search.example.org/?q={referrer}"));
    });
    datum.list(0..random.below(4) as usize, |d, _| {
        d.text(&words(random, 1));
    });
    let prices: Vec<i64> = (0..random.below(5)).map(|_| 99 + random.below(20_000) as i64).collect();
    let total = (!prices.is_empty()).then(|| prices.iter().sum());
    datum.option(total, |d, total| {
        money(d, total, 0);
        d.list(prices.iter(), |d, price| {
            d.text(&format!("sku-{price}")).long(1);
            money(d, *price, 0);
        });
    });
    match random.below(4) {
        0 => datum.long(0),
        1 => datum.long(1).long(random.below(1000) as i64),
        2 => datum.long(2).double(0.25),
        _ => datum.long(3).text(&words(random, 2)),
    };
    datum.list(["dns", "connect", "first_byte", "paint"].iter(), |d, name| {
        d.text(name).double(random.below(100_000) as f64 / 100.0);
    });
    datum.list(0..random.below(3) as usize, |d, _| {
        d.text(&words(random, 1)).text("control");
    });
    datum
        .fixed(&random.bits().to_be_bytes())
        .fixed(&random.bits().to_be_bytes());
    datum.long(20_000 + random.below(30) as i64);
    let bytes = std::mem::take(&mut datum.0);
    Body {
        bytes,
        kind,
        bot,
        analytics: consent == Some(true),
        url,
        total,
    }
}

impl Job for Navigation {
    fn name(&self) -> &'static str {
        "navigation"
    }

    fn fate(&self, draw: &Draw) -> Fate {
        let body = &self.bodies[draw.body];
        if body.bot || body.kind == HEARTBEAT {
            Fate::Skipped
        } else {
            Fate::Published
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
        datum.fixed(&self.bodies[draw.body].bytes);
    }

    fn enrichment(&self, draw: &Draw, datum: &mut Datum) {
        let profile = self.world.profile(draw.user);
        datum.option(profile, |d, p| {
            d.text(p.segment);
        });
        datum.option(profile, |d, p| {
            d.double(p.score);
        });
        datum.option(profile, |d, p| {
            d.text(p.country);
        });
        late(datum, draw);
    }

    fn output_key(&self, draw: &Draw, key: &mut Vec<u8>) {
        key.extend_from_slice(self.world.user_id(draw.user).as_bytes());
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn largest(&self) -> usize {
        64 + self.bodies.iter().map(|body| body.bytes.len()).max().unwrap_or(0)
    }

    fn tables(&self) -> &'static [Table] {
        &[Table {
            name: "events_by_user",
            columns: "id, user_id, kind, url, total",
            last_of_user: false,
        }]
    }

    fn write_steps(&self) -> &'static [&'static str] {
        &["history"]
    }

    fn writes(&self, _table: usize, draw: &Draw) -> bool {
        self.bodies[draw.body].analytics
    }

    fn row_is_right(&self, _table: usize, draw: &Draw, row: &rusqlite::Row<'_>) -> rusqlite::Result<bool> {
        let body = &self.bodies[draw.body];
        Ok(row.get::<_, String>(1)? == self.world.user_id(draw.user)
            && row.get::<_, String>(2)? == KINDS[body.kind]
            && row.get::<_, String>(3)? == body.url
            && row.get::<_, Option<Vec<u8>>>(4)? == body.total.map(super::parts::stored_decimal))
    }
}
