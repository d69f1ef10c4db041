//! The demo's database: its tables are created and filled before the pipelines start, and read back after they have stopped.
//!
//! The tables are declared with CQL types, as the embedded store reads them. What is read back is compared row by row with what the records imply; an
//! unexpected row is as wrong as a missing one.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::bitmap::Bitmap;
use super::streams::Stream;
use super::world::{CAMPAIGNS, COUNTRIES, PARTNERS, USERS, World, partner_id};

const TABLES: &str = r#"
    PRAGMA journal_mode = wal;
    CREATE TABLE profiles (user_id text PRIMARY KEY, segment text, score double, country text) WITHOUT ROWID;
    CREATE TABLE customers (customer_id text PRIMARY KEY, tier text, credit bigint) WITHOUT ROWID;
    CREATE TABLE partners (partner_id text PRIMARY KEY, name text, country text) WITHOUT ROWID;
    CREATE TABLE vat_rates (country text PRIMARY KEY, rate double) WITHOUT ROWID;
    CREATE TABLE campaigns (campaign_id bigint PRIMARY KEY, name text, brand text) WITHOUT ROWID;
    CREATE TABLE events_by_user (user_id text, at timestamp, id bigint, kind text, url text, total decimal,
        PRIMARY KEY (user_id, at, id)) WITHOUT ROWID;
    CREATE TABLE orders (order_id bigint PRIMARY KEY, customer_id text, placed_at timestamp, status text, total decimal,
        currency text, coupons "list<text>") WITHOUT ROWID;
    CREATE TABLE large_orders (customer_id text, order_id bigint, total decimal,
        PRIMARY KEY (customer_id, order_id)) WITHOUT ROWID;
    CREATE TABLE last_reactions (user_id text PRIMARY KEY, kind text, at timestamp, sequence bigint) WITHOUT ROWID;
    CREATE TABLE clicks (campaign_id bigint, at timestamp, sequence bigint, user_id text, url text,
        PRIMARY KEY (campaign_id, at, sequence)) WITHOUT ROWID;
"#;

/// Creates the tables, and fills those that the look-ups read.
pub fn create(path: &Path, world: &World) -> rusqlite::Result<()> {
    let mut connection = Connection::open(path)?;
    connection.execute_batch(TABLES)?;
    let rows = connection.transaction()?;
    {
        let mut profile = rows.prepare("INSERT INTO profiles VALUES (?1, ?2, ?3, ?4)")?;
        let mut customer = rows.prepare("INSERT INTO customers VALUES (?1, ?2, ?3)")?;
        for user in 0..USERS {
            if let Some(p) = world.profile(user) {
                profile.execute((world.user_id(user), p.segment, p.score, p.country))?;
            }
            if let Some(c) = world.customer(user) {
                customer.execute((world.user_id(user), c.tier, c.credit))?;
            }
        }
        let mut partner = rows.prepare("INSERT INTO partners VALUES (?1, ?2, ?3)")?;
        for (number, p) in (0..PARTNERS).filter_map(|n| Some((n, world.partner(n)?))) {
            partner.execute((partner_id(number), &p.name, COUNTRIES[p.country].0))?;
        }
        let mut vat = rows.prepare("INSERT INTO vat_rates VALUES (?1, ?2)")?;
        for (country, rate) in COUNTRIES.iter().filter_map(|(country, rate)| Some((country, (*rate)?))) {
            vat.execute((country, rate))?;
        }
        let mut campaign = rows.prepare("INSERT INTO campaigns VALUES (?1, ?2, ?3)")?;
        for (id, c) in
            (0..CAMPAIGNS).filter_map(|n| Some((super::streams::reactions::campaign_id(n), world.campaign(n)?)))
        {
            campaign.execute((id, &c.name, c.brand))?;
        }
    }
    rows.commit()
}

/// The content of one stream's tables, compared with what it should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rows {
    /// Rows that are there.
    pub found: u64,
    /// Rows that should be there and are not.
    pub lost: u64,
    /// Rows that should not be there, or not with these values.
    pub wrong: u64,
}

/// Compares the tables of a stream with its first `records` records.
pub fn verify(path: &Path, stream: &Stream, records: u64) -> rusqlite::Result<Rows> {
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let mut all = Rows::default();
    for (number, table) in stream.job.tables().iter().enumerate() {
        let expected = expected(stream, number, records);
        let mut found = Bitmap::new(records);
        let mut statement = connection.prepare(&format!("SELECT {} FROM {}", table.columns, table.name))?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            let sequence = u64::try_from(row.get::<_, i64>(0)?).unwrap_or(u64::MAX);
            let right = expected.has(sequence)
                && found.add(sequence) == Some(true)
                && stream.job.row_is_right(number, &stream.draw(sequence), row)?;
            all.found += 1;
            all.wrong += u64::from(!right);
        }
        all.lost += expected.without(&found);
    }
    Ok(all)
}

/// The records that must have a row in this table.
fn expected(stream: &Stream, table: usize, records: u64) -> Bitmap {
    let mut expected = Bitmap::new(records);
    let mut last_of_user = vec![
        None;
        if stream.job.tables()[table].last_of_user {
            USERS
        } else {
            0
        }
    ];
    for sequence in 0..records {
        let draw = stream.draw(sequence);
        if !stream.writes(table, &draw) {
            continue;
        }
        match last_of_user.get_mut(draw.user) {
            Some(last) => *last = Some(sequence),
            None => {
                expected.add(sequence);
            }
        }
    }
    last_of_user.into_iter().flatten().for_each(|sequence| {
        expected.add(sequence);
    });
    expected
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cluster::Scratch;

    #[test]
    fn every_wrong_and_every_missing_row_is_found() {
        let scratch = Scratch::new().expect("a directory");
        let path = scratch.database();
        let streams = Stream::all([1, 2, 3]);
        create(&path, &World::default()).expect("tables");
        let records = 2000;
        let stream = streams.iter().find(|s| s.job.name() == "reactions").expect("a stream");
        let [last, clicks] = [0, 1].map(|table| expected(stream, table, records));
        assert!(last.count() > 100 && clicks.count() > 100);
        let empty = verify(&path, stream, records).expect("rows");
        assert_eq!(
            empty,
            Rows {
                found: 0,
                lost: last.count() + clicks.count(),
                wrong: 0
            }
        );

        let connection = Connection::open(&path).expect("a database");
        let insert = "INSERT INTO last_reactions (user_id, kind, at, sequence) VALUES ('nobody', 'CLICK', 0, ?1)";
        let sequence = (0..records).find(|n| last.has(*n)).expect("one");
        connection.execute(insert, [sequence.cast_signed()]).expect("a row");
        let one = verify(&path, stream, records).expect("rows");
        assert_eq!(
            one,
            Rows {
                found: 1,
                lost: last.count() - 1 + clicks.count(),
                wrong: 1
            }
        );
    }
}
