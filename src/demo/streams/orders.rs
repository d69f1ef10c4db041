//! Orders: order by partition, an uncached look-up that dead-letters unknown customers, a look-up that needs another's result, two writes.

use std::sync::Arc;

use super::parts::{geo, late, money, words};
use super::{BODIES, Draw, Fate, Job, Table};
use crate::demo::datum::Datum;
use crate::demo::random::Random;
use crate::demo::world::{COUNTRIES, PARTNERS, World, partner_id};

/// Symbols of the schema's enum `Status`.
const STATUSES: [&str; 4] = ["CREATED", "PAID", "SHIPPED", "CANCELLED"];
/// Symbols of the schema's enum `Currency`.
const CURRENCIES: [&str; 4] = ["EUR", "GBP", "CHF", "SEK"];
/// An order is large from this total on, in cents.
const LARGE: i64 = 25_000;

/// A body, and its values that the pipeline's steps use.
struct Body {
    bytes_after_customer: Vec<u8>,
    partner: usize,
    status: usize,
    total: i64,
    currency: usize,
    coupons: Vec<String>,
}

/// The job `orders`.
pub struct Orders {
    world: Arc<World>,
    bodies: Vec<Body>,
}

impl Orders {
    /// Encodes the bodies.
    pub fn new(world: Arc<World>) -> Orders {
        Orders {
            world,
            bodies: (0..BODIES as u64).map(body).collect(),
        }
    }
}

/// Makes a body: the part of the datum after the customer's id.
fn body(number: u64) -> Body {
    let random = &mut Random::new(0x4F52, number);
    let datum = &mut Datum::default();
    datum.option((!random.once_in(4)).then(|| words(random, 2)), |d, name| {
        d.text(&format!("{}@example.com", name.replace(' ', ".")));
    });
    datum.text(&format!("{} {}", 1 + random.below(200), words(random, 2)));
    geo(datum, random);
    // The last four partners do not exist.
    let partner = random.below(PARTNERS as u64 + 4) as usize;
    let status = random.below(STATUSES.len() as u64) as usize;
    let currency = random.below(CURRENCIES.len() as u64) as usize;
    datum.text(&partner_id(partner)).long(status as i64);

    let prices: Vec<i64> = (0..1 + random.below(4))
        .map(|_| 199 + random.below(15_000) as i64)
        .collect();
    let total = prices.iter().sum();
    money(datum, total, currency as i64);
    datum.list(prices.iter(), |d, price| {
        d.text(&format!("sku-{price}")).long(1);
        money(d, *price, currency as i64);
        d.option(random.once_in(5).then_some(1_500), |d, discount| {
            d.decimal(discount);
        });
        d.list(["colour", "size"].iter(), |d, name| {
            d.text(name).text(&words(random, 1));
        });
    });
    match random.below(3) {
        0 => datum.long(0).fixed(b"4242").long(20_700),
        1 => datum.long(1).text("FR7630006000011234567890189"),
        _ => datum
            .long(2)
            .text(&words(random, 1))
            .decimal(5_000)
            .long(currency as i64),
    };
    let coupons: Vec<String> = (0..random.below(3))
        .map(|n| format!("{}{n}", words(random, 1)))
        .collect();
    datum.list(coupons.iter(), |d, coupon| {
        d.text(coupon);
    });
    datum.option((!random.once_in(3)).then(|| 1 + random.below(9) as u32), |d, days| {
        // Months, days, milliseconds, each little-endian.
        d.fixed(&[0; 4]).fixed(&days.to_le_bytes()).fixed(&[0; 4]);
    });
    datum.list(["gift", "express", "first"].iter(), |d, name| {
        d.text(name).boolean(random.once_in(2));
    });
    datum.option(random.once_in(4).then(|| words(random, 8)), |d, note| {
        d.text(&note);
    });
    let bytes_after_customer = std::mem::take(&mut datum.0);
    Body {
        bytes_after_customer,
        partner,
        status,
        total,
        currency,
        coupons,
    }
}

impl Job for Orders {
    fn name(&self) -> &'static str {
        "orders"
    }

    fn fate(&self, draw: &Draw) -> Fate {
        match self.world.customer(draw.user) {
            Some(_) => Fate::Published,
            None => Fate::DeadLettered("missing"),
        }
    }

    fn tombstone(&self) -> Fate {
        Fate::DeadLettered("tombstone")
    }

    fn datum(&self, draw: &Draw, time_ms: i64, datum: &mut Datum) {
        datum
            .long(draw.sequence.cast_signed())
            .long(time_ms * 1000)
            .text(self.world.user_id(draw.user));
        datum.fixed(&self.bodies[draw.body].bytes_after_customer);
    }

    fn enrichment(&self, draw: &Draw, datum: &mut Datum) {
        let body = &self.bodies[draw.body];
        let customer = self.world.customer(draw.user);
        let partner = self.world.partner(body.partner);
        datum.option(customer, |d, c| {
            d.text(c.tier);
        });
        datum.option(customer, |d, c| {
            d.long(c.credit);
        });
        datum.option(partner, |d, p| {
            d.text(&p.name);
        });
        datum.option(partner.and_then(|p| COUNTRIES[p.country].1), |d, rate| {
            d.double(rate);
        });
        datum.boolean(body.total >= LARGE);
        late(datum, draw);
    }

    fn output_key(&self, draw: &Draw, key: &mut Vec<u8>) {
        key.extend_from_slice(self.world.user_id(draw.user).as_bytes());
    }

    fn is_ordered(&self) -> bool {
        true
    }

    fn largest(&self) -> usize {
        64 + self
            .bodies
            .iter()
            .map(|body| body.bytes_after_customer.len())
            .max()
            .unwrap_or(0)
    }

    fn tables(&self) -> &'static [Table] {
        &[
            Table {
                name: "orders",
                columns: "order_id, customer_id, status, total, currency, coupons",
                last_of_user: false,
            },
            Table {
                name: "large_orders",
                columns: "order_id, customer_id, total",
                last_of_user: false,
            },
        ]
    }

    fn write_steps(&self) -> &'static [&'static str] {
        &["order", "large"]
    }

    fn writes(&self, table: usize, draw: &Draw) -> bool {
        table == 0 || self.bodies[draw.body].total >= LARGE
    }

    fn row_is_right(&self, table: usize, draw: &Draw, row: &rusqlite::Row<'_>) -> rusqlite::Result<bool> {
        let body = &self.bodies[draw.body];
        let total = Some(super::parts::stored_decimal(body.total));
        if row.get::<_, String>(1)? != self.world.user_id(draw.user) {
            return Ok(false);
        }
        if table == 1 {
            return Ok(row.get::<_, Option<Vec<u8>>>(2)? == total);
        }
        let coupons: Vec<String> = serde_json::from_str(&row.get::<_, String>(5)?).unwrap_or_default();
        Ok(row.get::<_, String>(2)? == STATUSES[body.status]
            && row.get::<_, Option<Vec<u8>>>(3)? == total
            && row.get::<_, String>(4)? == CURRENCIES[body.currency]
            && coupons == body.coupons)
    }
}
