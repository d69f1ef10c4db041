//! Tests of groups: who sends, when, and what every member is told. The clock is real: tests in which nothing must wait use a linger of an hour.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use tokio::time::sleep;

use super::*;

const OPTIONS: GroupOptions = GroupOptions {
    linger: Duration::from_millis(2),
    max_rows: 4,
    max_bytes: 1000,
    across_partitions: false,
};

/// A linger so long that no test waits for it.
const PATIENT: GroupOptions = GroupOptions {
    linger: Duration::from_secs(3600),
    ..OPTIONS
};

type Sent = Arc<Mutex<Vec<Vec<u32>>>>;

/// A database that records what it receives, takes a while, and refuses batches that contain certain rows.
#[derive(Clone, Default)]
struct Database {
    groups: Arc<Groups<&'static str, u32>>,
    stats: Arc<GroupStats>,
    sent: Sent,
    takes: Duration,
    refuses: Vec<(u32, Option<Class>)>,
}

impl Database {
    async fn write(&self, key: &'static str, row: u32, bytes: usize, options: GroupOptions) -> Came {
        let send = |rows: Vec<u32>| async move {
            sleep(self.takes).await;
            let refused = self.refuses.iter().find(|(row, _)| rows.contains(row)).cloned();
            self.sent.lock().unwrap().push(rows);
            match refused {
                Some((_, Some(Class::Permanent))) => Err(StoreError::permanent("invalid", "a bad row")),
                Some(_) => Err(StoreError::transient("overloaded", "later")),
                None => Ok(()),
            }
        };
        self.groups.write(key, row, bytes, &options, &self.stats, send).await
    }

    /// Rows of one partition, all at once.
    async fn write_all(&self, rows: impl IntoIterator<Item = u32>, options: GroupOptions) -> Vec<Came> {
        let writes = rows.into_iter().map(|row| self.write("p", row, 10, options));
        futures_util::future::join_all(writes).await
    }

    fn sent(&self) -> Vec<Vec<u32>> {
        self.sent.lock().unwrap().clone()
    }
}

fn are_written(came: &[Came]) {
    assert!(came.iter().all(|came| matches!(came, Came::Written(_))), "{came:?}");
}

#[tokio::test]
async fn a_full_group_is_sent_at_once_and_the_rest_after_the_linger() {
    let database = Database::default();
    are_written(&database.write_all(0..4, PATIENT).await);
    are_written(&database.write_all(4..10, OPTIONS).await);
    assert_eq!(database.sent(), [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    assert_eq!(database.stats.sent(), (3, 10));
}

#[tokio::test]
async fn without_a_linger_what_is_ready_goes_together() {
    let database = Database::default();
    let now = GroupOptions {
        linger: Duration::ZERO,
        ..OPTIONS
    };
    are_written(&database.write_all(0..3, now).await);
    assert_eq!(database.sent(), [vec![0, 1, 2]]);
}

#[tokio::test]
async fn a_group_is_closed_before_it_would_be_too_large() {
    let database = Database::default();
    let of = |row, bytes| database.write("p", row, bytes, PATIENT);
    let came = tokio::join!(of(1, 600), of(2, 600), of(3, 400), of(4, 1000));
    are_written(&[came.0, came.1, came.2]);
    assert_eq!(came.3, Came::Alone, "as large as a group");
    let mut sent = database.sent();
    sent.sort();
    assert_eq!(sent, [vec![1], vec![2, 3]]);
}

#[tokio::test]
async fn partitions_are_kept_apart() {
    let database = Database::default();
    let of = |key, row| database.write(key, row, 10, OPTIONS);
    tokio::join!(of("a", 1), of("b", 2), of("a", 3), of("b", 4));
    let mut sent = database.sent();
    sent.sort();
    assert_eq!(sent, [vec![1, 3], vec![2, 4]]);
}

#[tokio::test]
async fn nobody_is_told_before_the_batch_is_written() {
    let database = Database {
        takes: Duration::from_millis(20),
        ..Database::default()
    };
    let writes = (0..4).map(|row| {
        let database = &database;
        async move {
            database.write("p", row, 10, PATIENT).await;
            database.sent().len()
        }
    });
    assert_eq!(futures_util::future::join_all(writes).await, [1, 1, 1, 1]);
}

#[tokio::test]
async fn the_wait_for_others_is_no_time_of_the_request() {
    let long = GroupOptions {
        linger: Duration::from_millis(400),
        ..OPTIONS
    };
    let database = Database::default();
    for came in database.write_all(0..2, long).await {
        match came {
            Came::Written(took) => assert!(took < long.linger / 2, "{took:?}"),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_batch_that_is_refused_is_left_to_each_and_one_that_may_pass_is_not() {
    let refuses = vec![(2, Some(Class::Permanent)), (12, None), (20, Some(Class::Permanent))];
    let database = Database {
        refuses,
        ..Database::default()
    };
    assert_eq!(database.write_all(0..4, OPTIONS).await, vec![Came::Alone; 4]);
    let later = database.write_all(10..14, OPTIONS).await;
    assert!(later.iter().all(|came| matches!(came, Came::Failed(_))), "{later:?}");
    let bad = StoreError::permanent("invalid", "a bad row");
    assert_eq!(
        database.write_all([20], OPTIONS).await,
        [Came::Failed(bad)],
        "it was alone already"
    );
    assert_eq!(database.stats.sent(), (0, 0));
}

/// A breaker that counted every row of the batch would open.
#[tokio::test]
async fn a_batch_that_fails_is_one_failed_request() {
    // Sent by the row that fills the group, by the first one after the linger, and by the next one if the first leaves.
    for (rows, options, leaves) in [(0..4, PATIENT, false), (0..3, OPTIONS, false), (0..3, PATIENT, true)] {
        let database = Database {
            refuses: vec![(2, None)],
            ..Database::default()
        };
        let writes = rows.map(|row| {
            let database = database.clone();
            tokio::spawn(async move { database.write("p", row, 10, options).await })
        });
        let writes: Vec<_> = writes.collect();
        tokio::task::yield_now().await;
        if leaves {
            writes[0].abort();
        }
        let mut outages = 0;
        for write in writes.into_iter().skip(usize::from(leaves)) {
            match write.await.unwrap() {
                Came::Failed(error) => outages += usize::from(error.is_outage()),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(outages, 1);
    }
}

#[tokio::test]
async fn when_the_sender_leaves_the_others_are_not_stuck() {
    let database = Database {
        takes: Duration::from_millis(200),
        ..Database::default()
    };
    // The sender leaves while it waits for others: the next member sends.
    let spawned = |row| {
        let database = database.clone();
        tokio::spawn(async move { database.write("p", row, 10, PATIENT).await })
    };
    let (first, second, third) = (spawned(1), spawned(2), spawned(3));
    tokio::task::yield_now().await;
    first.abort();
    are_written(&[second.await.unwrap(), third.await.unwrap()]);
    assert_eq!(database.sent(), [vec![1, 2, 3]]);
    // The sender leaves while it sends: the others write alone. The fourth row fills the group.
    let others = [spawned(4), spawned(5), spawned(6)];
    tokio::task::yield_now().await;
    let last = spawned(7);
    tokio::task::yield_now().await;
    last.abort();
    for other in others {
        assert_eq!(other.await.unwrap(), Came::Alone);
    }
    // No group remains open.
    assert!(database.groups.state().groups.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn every_row_is_sent_once_in_batches_within_their_bounds(
        rows in prop::collection::vec((0usize..3, 1usize..400, 0u64..6), 1..60), takes in 0u64..10,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let database = Database { takes: Duration::from_millis(takes), ..Database::default() };
        let keys = ["a", "b", "c"];
        let came = runtime.block_on(async {
            let writes = rows.iter().enumerate().map(|(i, (key, bytes, wait))| {
                let database = &database;
                async move {
                    sleep(Duration::from_millis(*wait)).await;
                    database.write(keys[*key], i as u32, *bytes, OPTIONS).await
                }
            });
            futures_util::future::join_all(writes).await
        });
        are_written(&came);
        let sent = database.sent();
        for batch in &sent {
            let of = |i: &u32| &rows[*i as usize];
            prop_assert!(batch.len() <= OPTIONS.max_rows);
            prop_assert!(batch.iter().map(|i| of(i).1).sum::<usize>() <= OPTIONS.max_bytes);
            prop_assert!(batch.iter().all(|i| of(i).0 == of(&batch[0]).0), "one partition");
        }
        let mut all: Vec<u32> = sent.concat();
        all.sort_unstable();
        prop_assert_eq!(all, (0..rows.len() as u32).collect::<Vec<_>>());
        prop_assert!(database.groups.state().groups.is_empty());
    }
}
