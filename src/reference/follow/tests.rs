//! Tests of following, on servers that answer what a test wants.

use std::sync::atomic::{AtomicUsize, Ordering};

use mongodb::bson::{Document, RawDocumentBuf, Timestamp, doc};
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::avro::value::{Type, Value};
use crate::reference::Shape;
use crate::reference::fake::{all, member, nothing, refused};
use crate::reference::server::Server;
use crate::store::ColumnType;
use crate::telemetry::metrics::Metrics;

/// The error code of a server that is not a member of a replica set.
const NO_STREAMS: i32 = 40573;

/// The first cursor of a stream, with these changes.
fn stream(changes: Vec<Document>) -> Document {
    let token = doc! { "_data": "82" };
    doc! { "id": 7_i64, "ns": "crm.partners", "firstBatch": changes, "postBatchResumeToken": token }
}

async fn follower() -> Follower {
    // Nothing listens there.
    follower_of("mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=50", 1 << 20).await
}

async fn follower_of(uri: &str, max_bytes: u64) -> Follower {
    let server = Server::open(uri, None).await.unwrap();
    let reference = Arc::new(Reference::new(Shape {
        name: "partners".into(),
        collection: "crm.partners".to_owned(),
        key: "_id".to_owned(),
        key_type: ColumnType::Text,
        fields: vec![("name".to_owned(), Type::String)],
        max_bytes,
    }));
    let metrics = ReferenceMetrics::new(&Metrics::new().unwrap(), "partners");
    let backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(1), 1.0);
    let source = server.source("crm.partners", []);
    Follower::new(reference, source, Duration::ZERO, backoff, metrics)
}

#[tokio::test]
async fn a_reading_that_fails_leaves_the_copy_in_doubt_and_is_no_reading_that_found_less() {
    let mut follower = follower().await;
    assert!(!follower.doubted);
    let error = follower.read().await.unwrap_err();
    assert_eq!(error.class, Class::Transient, "{error}");
    assert!(follower.doubted && follower.shrunk.is_none());
}

/// A follower that has read the collection.
async fn patient(address: &impl std::fmt::Display) -> Follower {
    let mut follower = follower_of(&format!("mongodb://{address}/?replicaSet=rs"), 1 << 20).await;
    follower.read().await.unwrap();
    follower
}

/// A follower that has read the collection, and considers a stream silent after 50 ms.
async fn impatient(address: &impl std::fmt::Display) -> Follower {
    let mut follower = patient(address).await;
    follower.source.silence = Duration::from_millis(50);
    follower
}

/// Whether a command of this name comes twice within a minute.
async fn comes_twice(commands: &mut UnboundedReceiver<Document>, name: &str) -> bool {
    let twice = async {
        let mut came = 0;
        while came < 2 {
            came += usize::from(commands.recv().await.unwrap().contains_key(name));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), twice).await.is_ok()
}

#[tokio::test]
async fn a_stream_of_which_nothing_is_heard_is_given_up_and_resumed() {
    let (address, mut commands) = member(true, Duration::ZERO, |command| match command {
        "aggregate" => Some(stream(Vec::new())),
        // As on a dead connection that nobody closes.
        "getMore" => None,
        _ => Some(nothing()),
    })
    .await;
    let following = tokio::spawn(impatient(&address).await.run());
    assert!(comes_twice(&mut commands, "aggregate").await);
    following.abort();
}

#[tokio::test]
async fn a_stream_that_is_not_resumed_in_time_is_not_resumed_for_ever() {
    // A server looks for the position of the token when the stream is opened, or at its first poll.
    for opens in [false, true] {
        let opened = AtomicUsize::new(0);
        let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
            "aggregate" => {
                let number = opened.fetch_add(1, Ordering::Relaxed);
                (opens || number != 1).then(|| stream(Vec::new()))
            }
            "getMore" => None,
            _ => Some(nothing()),
        })
        .await;
        let following = tokio::spawn(impatient(&address).await.run());
        assert!(comes_twice(&mut commands, "find").await, "opens: {opens}");
        following.abort();
    }
}

/// A document of a quarter of a megabyte.
fn document(id: &str) -> Document {
    doc! { "_id": id, "name": "n".repeat(256 << 10) }
}

fn documents(prefix: &str, many: usize) -> Vec<Document> {
    (0..many).map(|i| document(&format!("{prefix}{i}"))).collect()
}

/// How many commands of this name came.
fn came(commands: &mut UnboundedReceiver<Document>, name: &str) -> usize {
    std::iter::from_fn(|| commands.try_recv().ok())
        .filter(|command| command.contains_key(name))
        .count()
}

/// A follower that may hold this many megabytes, of a server without change streams. It reads these collections one after the other, and then the
/// last one again and again.
async fn reader(megabytes: u64, collections: Vec<Vec<Document>>) -> (Follower, UnboundedReceiver<Document>) {
    let readings = AtomicUsize::new(0);
    let (address, commands) = member(true, Duration::ZERO, move |command| {
        if command == "aggregate" {
            return Some(refused(NO_STREAMS));
        }
        let reading = readings.fetch_add(1, Ordering::Relaxed);
        Some(all(collections[reading.min(collections.len() - 1)].clone()))
    })
    .await;
    let follower = follower_of(&format!("mongodb://{address}/?replicaSet=rs"), megabytes << 20).await;
    (follower, commands)
}

fn holds(follower: &Follower, id: &str) -> bool {
    let found = follower.reference.find(&Value::String(id.into()));
    found.unwrap().is_some()
}

#[tokio::test]
async fn a_collection_that_fits_is_taken_in_though_all_of_its_keys_are_others_by_now() {
    let (mut follower, mut commands) = reader(4, vec![documents("a", 15), documents("b", 15)]).await;
    follower.read().await.unwrap();
    follower.read().await.unwrap();
    assert!((0..15).all(|i| holds(&follower, &format!("b{i}"))) && !holds(&follower, "a0"));
    assert_eq!(follower.reference.entries(), 15);
    assert_eq!(
        came(&mut commands, "find"),
        3,
        "the second time for what is gone, and for the rest"
    );
}

#[tokio::test]
async fn a_collection_that_had_outgrown_its_room_is_taken_in_when_it_has_shrunk() {
    let (mut follower, _commands) = reader(4, vec![documents("a", 15), documents("a", 8)]).await;
    follower.read().await.unwrap();
    let change = |id| {
        let document = RawDocumentBuf::try_from(&document(id)).unwrap();
        follower.reference.change(follower.generation, &document)
    };
    assert!(change("x").is_ok() && change("y").is_err());
    follower.read().await.unwrap();
    assert_eq!(follower.reference.entries(), 8);
}

#[tokio::test]
async fn a_collection_that_does_not_fit_is_refused_before_much_more_is_held() {
    let (mut follower, mut commands) = reader(1, vec![documents("a", 3), documents("a", 40)]).await;
    follower.read().await.unwrap();
    assert_eq!(follower.read().await.unwrap_err().label, "max_bytes");
    assert!(follower.reference.bytes() < 3 << 20, "{}", follower.reference.bytes());
    assert!(holds(&follower, "a0"));
    assert_eq!(came(&mut commands, "find"), 2, "nothing that is held is gone");
}

#[tokio::test]
async fn what_is_gone_is_let_go_of_however_many_readings_came_to_nothing_before() {
    let held = |ids: &[&str]| -> Vec<Document> { ids.iter().map(|id| doc! { "_id": *id, "name": "n" }).collect() };
    // A generation of one byte would wrap around to that of the first read.
    let mut collections = vec![Vec::new(); 257];
    collections[0] = held(&["a", "b"]);
    collections[256] = held(&["b"]);
    let (mut follower, _commands) = reader(1, collections).await;
    follower.read().await.unwrap();
    for _ in 1..256 {
        assert_eq!(follower.read().await.unwrap_err().label, "empty");
    }
    follower.read().await.unwrap();
    assert!(holds(&follower, "b") && !holds(&follower, "a"));
}

#[tokio::test]
async fn a_short_reading_is_believed_by_the_next_short_one_alone_that_finds_hardly_more() {
    let mut follower = follower().await;
    let began = Instant::now();
    let mut refused = |minute: u64, found| {
        let now = began + Duration::from_secs(60 * minute);
        follower.believe(found, 100, now).err().map(|error| error.label)
    };
    assert_eq!(refused(0, 50), None);
    assert_eq!(refused(0, 10), Some("shrunk"));
    assert_eq!(refused(5, 0), Some("empty"), "it speaks for no other");
    assert_eq!(refused(6, 40), Some("shrunk"));
    assert_eq!(refused(11, 10), Some("shrunk"), "it was dropped since");
    assert_eq!(refused(15, 32), Some("shrunk"), "it is being filled");
    // However often it is read.
    for (minute, found) in [(16, 34), (17, 36), (18, 38), (19, 40), (20, 42), (22, 42)] {
        assert_eq!(refused(minute, found), Some("shrunk"), "minute {minute}");
    }
    assert_eq!(refused(23, 42), None);
}

#[test]
fn what_is_doubted_is_read_again_soon_whatever_the_schedule() {
    let hours = Duration::from_secs(12 * 3600);
    assert_eq!([Duration::ZERO, hours].map(patience), [DOUBT; 2]);
    assert_eq!(patience(Duration::from_secs(2)), Duration::from_secs(2));
    let seconds = [Duration::ZERO, hours, Duration::from_secs(6)].map(|refresh| settled(refresh).as_secs());
    assert_eq!(seconds, [295, 295, 59]);
}

#[tokio::test]
async fn a_server_that_becomes_a_member_of_a_replica_set_is_followed() {
    let opened = AtomicUsize::new(0);
    let (address, _commands) = member(true, Duration::ZERO, move |command| match command {
        "aggregate" if opened.fetch_add(1, Ordering::Relaxed) == 0 => Some(refused(NO_STREAMS)),
        "aggregate" => Some(stream(Vec::new())),
        _ => Some(nothing()),
    })
    .await;
    let mut follower = follower_of(&format!("mongodb://{address}/?replicaSet=rs"), 1 << 20).await;
    for has_streams in [false, true] {
        follower.read().await.unwrap();
        assert_eq!(
            (follower.has_streams, follower.stream.is_some()),
            (has_streams, has_streams)
        );
    }
}

#[tokio::test]
async fn a_place_that_the_server_cannot_tell_of_is_left() {
    // Either a change exceeds the maximum message size, or the stream is refused at its position this many times.
    for refusals in [0, MOST_REFUSED as usize] {
        let opened = AtomicUsize::new(0);
        let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
            "aggregate" if (1..=refusals).contains(&opened.fetch_add(1, Ordering::Relaxed)) => Some(refused(10334)),
            "aggregate" => Some(stream(Vec::new())),
            "getMore" => Some(refused(10334)),
            _ => Some(nothing()),
        })
        .await;
        let following = tokio::spawn(patient(&address).await.run());
        // The first stream, those at the old position, and the one for the second read.
        assert_eq!(opened_until_read_again(&mut commands).await, 1 + refusals.max(1) + 1);
        following.abort();
    }
}

/// How many streams are opened until the collection is read a second time.
async fn opened_until_read_again(commands: &mut UnboundedReceiver<Document>) -> usize {
    let read_again = async {
        let (mut opened, mut read) = (0, 0);
        while read < 2 {
            let command = commands.recv().await.unwrap();
            opened += usize::from(command.contains_key("aggregate"));
            read += usize::from(command.contains_key("find"));
        }
        opened
    };
    tokio::time::timeout(Duration::from_secs(60), read_again).await.unwrap()
}

#[tokio::test]
async fn an_error_of_the_server_among_other_failures_does_not_tell_of_the_place() {
    let away = 2 * MOST_REFUSED as usize;
    let opened = AtomicUsize::new(0);
    let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
        "aggregate" => Some(match opened.fetch_add(1, Ordering::Relaxed) {
            number if (1..=away).contains(&number) => {
                let mut passes = refused(10334);
                passes.insert("errorLabels", vec!["ResumableChangeStreamError"]);
                passes
            }
            number if number == away + 1 => refused(10334),
            _ => stream(Vec::new()),
        }),
        "getMore" => Some(refused(10334)),
        _ => Some(nothing()),
    })
    .await;
    let following = tokio::spawn(patient(&address).await.run());
    // The first stream, those while the server was away, the refused one, the accepted one, and the one for the second read.
    assert_eq!(opened_until_read_again(&mut commands).await, 1 + away + 1 + 1 + 1);
    following.abort();
}

#[tokio::test]
async fn the_first_error_at_a_place_is_followed_by_another_try() {
    let asked = AtomicUsize::new(0);
    let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
        "aggregate" => Some(stream(Vec::new())),
        // The first poll is not answered, so the silent stream is resumed.
        "getMore" => (asked.fetch_add(1, Ordering::Relaxed) > 0).then(|| refused(10334)),
        _ => Some(nothing()),
    })
    .await;
    let mut follower = patient(&address).await;
    follower.source.silence = Duration::from_secs(5);
    let following = tokio::spawn(follower.run());
    // The first stream, one at the old position, another one there, and the one for the second read.
    assert_eq!(opened_until_read_again(&mut commands).await, 4);
    following.abort();
}

#[tokio::test]
async fn the_age_counts_from_what_the_stream_has_told() {
    let seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let change = doc! {
        "_id": { "_data": "81" }, "operationType": "delete", "documentKey": { "_id": "a" },
        "clusterTime": Timestamp { time: u32::try_from(seconds - 100).unwrap(), increment: 1 },
    };
    let hour = Duration::from_secs(3600);
    // The changes that come with the opening, whether the stream answers polls, the number of polls, and the age after them in seconds.
    for (first, answers, asked, wanted) in [
        (vec![], false, 1, 3600),
        (vec![change], false, 1, 100),
        (vec![], true, 2, 0),
    ] {
        let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
            "aggregate" => Some(stream(first.clone())),
            "getMore" => answers.then(|| doc! { "id": 7_i64, "ns": "crm.partners", "nextBatch": [] }),
            _ => Some(nothing()),
        })
        .await;
        let follower = patient(&address).await;
        let reference = follower.reference.clone();
        *reference.current.lock().unwrap() = Instant::now().checked_sub(hour);
        let following = tokio::spawn(follower.run());
        let asks = async {
            let mut came = 0;
            while came < asked {
                came += usize::from(commands.recv().await.unwrap().contains_key("getMore"));
            }
        };
        tokio::time::timeout(Duration::from_secs(60), asks).await.unwrap();
        let age = reference.age(Instant::now()).unwrap().as_secs();
        assert!((wanted..wanted + 60).contains(&age), "{age} and not {wanted}");
        following.abort();
    }
}

#[tokio::test]
async fn a_server_has_as_much_time_between_readings_as_one_takes() {
    let takes = Duration::from_millis(400);
    let (address, mut commands) = member(true, Duration::ZERO, move |command| match command {
        "aggregate" => Some(stream(Vec::new())),
        // A change that is too large, again and again.
        "getMore" => Some(refused(10334)),
        "find" => {
            std::thread::sleep(takes);
            Some(nothing())
        }
        _ => Some(nothing()),
    })
    .await;
    let follower = patient(&address).await;
    let read = Instant::now();
    let following = tokio::spawn(follower.run());
    assert!(comes_twice(&mut commands, "find").await);
    // The command of the second read is reported only once it has taken its time, too.
    assert!(read.elapsed() > takes + takes / 2, "{:?}", read.elapsed());
    following.abort();
}
