//! Parts of data that several streams share.

use super::Draw;
use crate::demo::datum::Datum;
use crate::demo::random::Random;
use crate::demo::world::COUNTRIES;

const CITIES: [&str; 6] = ["Messina", "Lyon", "Malmö", "Łódź", "Gent", "Porto"];

pub fn geo(datum: &mut Datum, random: &mut Random) {
    datum.text(random.one_of(&COUNTRIES).0);
    datum.option((!random.once_in(3)).then_some("region"), |d, region| {
        d.text(&format!("{region}-{}", random.below(20)));
    });
    datum.option((!random.once_in(4)).then(|| random.one_of(&CITIES)), |d, city| {
        d.text(city);
    });
    let point = random.once_in(2).then(|| (random.below(180), random.below(360)));
    datum.option(point, |d, (latitude, longitude)| {
        d.double(latitude as f64 - 90.0).double(longitude as f64 - 180.0);
    });
}

pub fn money(datum: &mut Datum, cents: i64, currency: i64) {
    datum.decimal(cents).long(currency);
}

/// The enriched field `late`. It may be null, because a Kafka record need not have the timestamp that it is computed from.
pub fn late(datum: &mut Datum, draw: &Draw) {
    datum.option(Some(draw.is_late()), |d, late| {
        d.boolean(late);
    });
}

pub fn words(random: &mut Random, number: u64) -> String {
    const WORDS: [&str; 12] = [
        "strait",
        "harbour",
        "lantern",
        "ferry",
        "citrus",
        "marble",
        "anchor",
        "fennel",
        "island",
        "current",
        "swordfish",
        "sirocco",
    ];
    let words: Vec<&str> = (0..number).map(|_| random.one_of(&WORDS)).collect();
    words.join(" ")
}

pub fn uuid(random: &mut Random) -> String {
    let (a, b) = (random.bits(), random.bits());
    format!(
        "{:08x}-{:04x}-4{:03x}-8{:03x}-{:012x}",
        a >> 32,
        (a >> 16) & 0xFFFF,
        a & 0xFFF,
        b >> 52,
        b & 0xFFFF_FFFF_FFFF
    )
}

/// An amount of cents as the embedded store keeps a decimal: its digits, in bytes.
pub fn stored_decimal(cents: i64) -> Vec<u8> {
    format!("{}.{:02}", cents / 100, cents % 100).into_bytes()
}
