//! Keeps one reference fresh: reads the whole collection, follows its change stream, and reads the collection again on schedule.
//!
//! The stream is opened before the read begins and applied afterwards, so nothing in between is missed and the copy converges. Both ask the primary,
//! because a lagging member would lack changes that the stream has already passed. A stream that breaks or goes silent is resumed by its token. The
//! collection is read again if the server has lost that history, takes too long to find the place in it (it would search each time), answers there
//! repeatedly with an error, or has no change streams.
//!
//! A read adds what it finds to what is held, and at its end removes what it has not found. If there is no room for both, because keys changed or the
//! collection had outgrown its room, the read only determines which documents are gone, and all are read once more. Documents that are both in the
//! collection and in memory can be found all the time.
//!
//! Invariants: what is held is served on, whatever fails. A read that finds nothing is never believed if there were documents. One that finds less than
//! half of them is believed only if one some minutes later finds hardly more. So a collection that is dropped or renamed and refilled does not empty the
//! copy. Deletions in the change stream are applied as they come, even if they leave nothing: they may be meant.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ResumeToken;
use tokio::time::{sleep, sleep_until};

use super::on_demand::candidates;
use super::server::{
    Change, Source, cannot_resume, class, has_no_change_streams, is_late, is_refused, is_told, within,
};
use super::{Reference, codec};
use crate::retry::{Backoff, Class, Jitter};
use crate::store::StoreError;
use crate::telemetry::handles::ReferenceMetrics;

/// A doubtful read is repeated after this time, unless the schedule brings one sooner.
const DOUBT: Duration = Duration::from_secs(300);

/// A read checks at least once per this many bytes of documents whether they still fit.
const LARGE: usize = 1 << 20;
/// How many times another document with a key is requested before the whole collection is read instead.
const MOST_ASKED: u32 = 100;
/// How many times a server may answer a stream at one position with an error before the whole collection is read instead.
const MOST_REFUSED: u32 = 10;

/// The time until a doubtful read is repeated.
fn patience(refresh: Duration) -> Duration {
    if refresh.is_zero() { DOUBT } else { refresh.min(DOUBT) }
}

/// How long a collection that has shrunk must have kept its size before it is believed: ten refresh intervals, or the wait of a doubtful read if that
/// is shorter. Reduced a little, so that the read that is due at that time already counts.
fn settled(refresh: Duration) -> Duration {
    let wait = patience(refresh.saturating_mul(10));
    wait - wait / 64
}

/// See the module's documentation.
pub struct Follower {
    reference: Arc<Reference>,
    source: Source,
    refresh: Duration,
    backoff: Backoff,
    jitter: Jitter,
    metrics: ReferenceMetrics,
    generation: u16,
    stream: Option<ChangeStream<Change>>,
    /// The stream has been opened and not polled since: what it returns next came with its opening.
    unasked: bool,
    token: Option<ResumeToken>,
    /// Whether the server had change streams when it was asked last.
    has_streams: bool,
    /// The last read failed, or changes were left out since: the copy may lack something.
    doubted: bool,
    /// How many times another document with a key was requested since the last read.
    asked: u32,
    /// After a read that found less than half of the documents held: how many it found, and when. A later short read replaces it only if its number
    /// is clearly different.
    shrunk: Option<(u64, Instant)>,
    /// When the pause after the last read ends, which is as long as the read took. A stream that breaks causes no new read before.
    rested: Instant,
}

/// The result of a read.
struct Reading {
    /// Documents without a usable key.
    keyless: u64,
    /// Keys that documents have left and that other documents may have.
    left: Vec<Vec<u8>>,
    /// Why documents were left out, if some were.
    full: Option<StoreError>,
}

impl Follower {
    /// `refresh` of zero reads the collection once, and then only follows its changes.
    pub fn new(
        reference: Arc<Reference>,
        source: Source,
        refresh: Duration,
        backoff: Backoff,
        metrics: ReferenceMetrics,
    ) -> Follower {
        Follower {
            reference,
            source,
            refresh,
            backoff,
            jitter: Jitter::unique(),
            metrics,
            generation: 0,
            stream: None,
            unasked: false,
            token: None,
            has_streams: true,
            doubted: false,
            asked: 0,
            shrunk: None,
            rested: Instant::now(),
        }
    }

    /// Reads the whole collection.
    pub async fn read(&mut self) -> Result<(), StoreError> {
        let started = Instant::now();
        let result = self.read_all().await;
        self.rested = Instant::now() + started.elapsed();
        match &result {
            Ok(()) => {
                self.doubted = false;
                self.shrunk = None;
                self.reference.is_current(started);
                self.metrics.refreshed.inc();
                self.metrics.seconds.observe(started.elapsed().as_secs_f64());
            }
            Err(_) => {
                // The stream may be a new one, which lacks the changes that the old one would have delivered.
                self.doubted = true;
                self.metrics.failed.inc();
            }
        }
        self.sample();
        result
    }

    async fn read_all(&mut self) -> Result<(), StoreError> {
        self.stream = None;
        self.token = None;
        self.asked = 0;
        // Tried at every read, because a server may become a member of a replica set.
        match self.source.watch(None).await {
            Ok(stream) => {
                self.token = stream.resume_token();
                self.open(stream);
                if !std::mem::replace(&mut self.has_streams, true) {
                    tracing::info!(
                        reference = &*self.reference.shape.name,
                        "the server now has change streams; the collection is followed"
                    );
                }
            }
            Err(error) if has_no_change_streams(&error) => {
                if std::mem::replace(&mut self.has_streams, false) {
                    tracing::info!(
                        reference = &*self.reference.shape.name,
                        refresh = ?self.refresh,
                        "the server has no change streams; the collection is read again on schedule"
                    );
                }
            }
            Err(error) => return Err(class(&error)),
        }
        let mut reading = self.read_once().await?;
        // Deleted documents took up the room. They have been swept by now.
        if reading.full.is_some() {
            reading = self.read_once().await?;
        }
        let Reading { keyless, left, full } = reading;
        if let Some(full) = full {
            return Err(full);
        }
        self.reference.fits()?;
        for key in left {
            if self.reference.is_orphaned(&key) && !self.settle(Ok(Some(key))).await {
                let message = format!("{} changed too much while it was read", self.reference.shape.collection);
                return Err(StoreError::transient("changed", message));
            }
        }
        if keyless > 0 {
            let shape = &self.reference.shape;
            tracing::warn!(
                reference = &*shape.name,
                keyless,
                "documents without a usable {} cannot be looked up",
                shape.key
            );
        }
        Ok(())
    }

    fn open(&mut self, stream: ChangeStream<Change>) {
        self.stream = Some(stream);
        self.unasked = true;
    }

    /// Stores all documents, and removes those that no longer exist. Once there is no more room, documents that are not held are left out.
    async fn read_once(&mut self) -> Result<Reading, StoreError> {
        let held = self.reference.entries();
        self.generation = self.generation.wrapping_add(1);
        let (mut found, mut keyless, mut unasked) = (0u64, 0u64, 0);
        let (mut left, mut full) = (Vec::new(), None);
        let mut cursor = self.source.read(self.has_streams).await.map_err(|e| class(&e))?;
        while within(self.source.silence, cursor.advance())
            .await
            .map_err(|e| class(&e))?
        {
            let document = cursor.current();
            found += 1;
            unasked += document.as_bytes().len();
            if full.is_some() {
                self.reference.mark(self.generation, document);
            } else {
                let (usable, key) = self.reference.put(self.generation, document, true);
                left.extend(key);
                keyless += u64::from(!usable);
            }
            if found.is_multiple_of(1000) || unasked > LARGE {
                unasked = 0;
                full = full.or_else(|| self.reference.fits().err());
                // Everything held still exists, so the sweep will free no room.
                if full.is_some() && self.reference.older(self.generation) == 0 {
                    break;
                }
            }
        }
        if self.reference.older(self.generation) == 0
            && let Some(full) = full
        {
            return Err(full);
        }
        self.believe(found, held, Instant::now())?;
        self.reference.sweep(self.generation);
        Ok(Reading { keyless, left, full })
    }

    /// Whether the documents that a read found may replace those held.
    fn believe(&mut self, found: u64, held: u64, now: Instant) -> Result<(), StoreError> {
        let collection = &self.reference.shape.collection;
        // It does not confirm a later short read either: a collection that is being refilled is small for a while.
        if found == 0 && held > 0 {
            self.shrunk = None;
            let message = format!("{collection} is empty, but {held} documents are in memory: these are kept");
            return Err(StoreError::permanent("empty", message));
        }
        if found >= held / 2 {
            self.shrunk = None;
            return Ok(());
        }
        // A collection that grows is still being filled.
        match self.shrunk.filter(|(before, _)| found.abs_diff(*before) <= before / 8) {
            Some((_, at)) if now.saturating_duration_since(at) >= settled(self.refresh) => Ok(()),
            before => {
                self.shrunk = before.or(Some((found, now)));
                let message = format!(
                    "{collection} has {found} documents, but {held} are in memory: these are kept until the collection has stopped growing for some minutes"
                );
                Err(StoreError::permanent("shrunk", message))
            }
        }
    }

    /// Follows the collection for as long as the task lives. The collection has to be read before.
    pub async fn run(mut self) {
        let silence = self.source.silence;
        // Failures since the stream last delivered something or, without a stream, since the last read.
        let mut attempt = 0;
        // How many times the server has answered with an error since the stream last made progress, or since the last read.
        let mut refusals = 0;
        // The stream was resumed by its token, and has made no progress since.
        let mut resumed = false;
        let mut due = self.next();
        loop {
            let (mut again, mut failed) = (false, false);
            match self.stream.as_mut() {
                Some(stream) => {
                    let next = within(silence, stream.next_if_any()).await;
                    match next {
                        Ok(change) => {
                            let token = stream.resume_token();
                            // The first, empty batch is sent before the server has looked for the position, so it proves nothing. If the driver
                            // resumes a stream by itself, as after a broken connection, the first batch of the new stream cannot be told from an
                            // answer: the copy counts as current at once.
                            let told = !std::mem::take(&mut self.unasked) || change.is_some();
                            resumed &= change.is_none() && token == self.token;
                            self.token = token;
                            if told && !resumed {
                                refusals = 0;
                            }
                            let alive = stream.is_alive();
                            let applied = match &change {
                                Some(change) => self.apply(change).await,
                                None => true,
                            };
                            again = !alive || !applied;
                            // While a read is due, the copy is not current and its back-off is not over.
                            if told && !self.doubted && !again {
                                let (now, clock) = (Instant::now(), SystemTime::now());
                                let made = change.map_or(now, |change| change.made(now, clock));
                                self.reference.is_current(made);
                                attempt = 0;
                            }
                        }
                        Err(error) => {
                            self.stream = None;
                            refusals += u32::from(is_told(&error));
                            // A single error may be due to the moment, and not to the position.
                            let stuck = is_late(&error) || is_told(&error) && refusals > 1;
                            again = cannot_resume(&error) || resumed && stuck || self.token.is_none();
                            failed = true;
                            self.tell("its change stream broke", &class(&error));
                        }
                    }
                }
                None => match self.token.clone() {
                    Some(token) => match self.source.watch(Some(token)).await {
                        Ok(stream) => {
                            self.open(stream);
                            resumed = true;
                        }
                        Err(error) => {
                            let transient = class(&error).class == Class::Transient;
                            refusals += u32::from(is_told(&error));
                            let refused = is_told(&error) && refusals > MOST_REFUSED;
                            again = cannot_resume(&error) || is_late(&error) || refused || !transient;
                            failed = true;
                            self.tell("its change stream cannot be resumed", &class(&error));
                        }
                    },
                    None => match due {
                        Some(due) => sleep_until(due.into()).await,
                        // There is neither a stream nor a schedule: try the stream again after a while.
                        None => {
                            sleep(DOUBT).await;
                            again = true;
                        }
                    },
                },
            }
            // As long as the stream still delivers changes, follow it until the pause after the last read is over.
            if again
                && self.rested > Instant::now()
                && let Some(stream) = &self.stream
                && stream.is_alive()
            {
                self.doubted = true;
                due = Some(due.map_or(self.rested, |due| due.min(self.rested)));
                again = false;
            }
            // Repeated failures are retried only after a pause, even if each read in between succeeds.
            if again || failed {
                sleep(self.backoff.delay(attempt, self.jitter.next_u64())).await;
                attempt = attempt.saturating_add(1);
            }
            // If changes that are too large for the stream keep coming, a large collection would otherwise be read without end.
            if again {
                sleep_until(self.rested.into()).await;
            }
            if again || due.is_some_and(|due| due <= Instant::now()) {
                resumed = false;
                refusals = 0;
                due = match self.read().await {
                    Ok(()) => {
                        if self.stream.is_none() {
                            attempt = 0;
                        }
                        self.next()
                    }
                    Err(error) => {
                        self.tell("it cannot be read again", &error);
                        let wait = match error.class {
                            // A refused request reads the login again, so a retry may succeed soon.
                            _ if is_refused(&error) => self.backoff.delay(attempt, self.jitter.next_u64()),
                            Class::Transient => self.backoff.delay(attempt, self.jitter.next_u64()),
                            Class::Permanent | Class::Fatal => patience(self.refresh),
                        };
                        attempt = attempt.saturating_add(1);
                        Instant::now().checked_add(wait)
                    }
                };
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        (!self.refresh.is_zero()).then(|| Instant::now().checked_add(self.refresh))?
    }

    /// Applies a change; false if the collection has to be read again.
    async fn apply(&mut self, change: &Change) -> bool {
        self.metrics.changes.inc();
        let left = match change.operation.as_str() {
            "insert" | "update" | "replace" => match change.document.as_deref() {
                Some(document) => self.reference.change(self.generation, document),
                None => Ok(None),
            },
            "delete" => {
                let id = change.key.as_ref().and_then(|key| key.get("_id").ok().flatten());
                Ok(id.and_then(|id| self.reference.remove(id)))
            }
            "drop" | "dropDatabase" | "rename" | "invalidate" => return false,
            _ => Ok(None),
        };
        self.settle(left).await
    }

    /// Fetches another document with the key that a change has vacated, if any; false if the collection has to be read again.
    async fn settle(&mut self, mut left: Result<Option<Vec<u8>>, StoreError>) -> bool {
        loop {
            let key = match left {
                Ok(Some(key)) => key,
                Ok(None) => return true,
                // A change was left out, so the copy is in doubt until the collection has been read and fits. That is tried at once the first time,
                // and then on schedule.
                Err(error) => {
                    let known = std::mem::replace(&mut self.doubted, true);
                    if !known {
                        self.tell("it has grown, and changes are left out", &error);
                    }
                    return known;
                }
            };
            // Limited, because the stream and its changes wait for these requests.
            if self.asked == MOST_ASKED {
                return false;
            }
            self.asked += 1;
            let keys = candidates(&codec::value_of_key(&key));
            left = match self.source.another(&self.reference.shape.key, keys, &key).await {
                Ok(Some(document)) => self.reference.change(self.generation, &document),
                Ok(None) => {
                    self.reference.is_free(&key);
                    return true;
                }
                Err(error) => {
                    self.tell("a document may have hidden another one with the same key", &error);
                    return false;
                }
            };
        }
    }

    fn tell(&self, what: &str, error: &StoreError) {
        let age = self.reference.age(Instant::now()).unwrap_or_default();
        tracing::warn!(
            reference = &*self.reference.shape.name,
            age_seconds = age.as_secs(),
            reason = error.label,
            "{what}: {error}; the documents in memory are served"
        );
    }

    fn sample(&self) {
        self.metrics.show(&self.reference, Instant::now());
    }
}

#[cfg(test)]
mod tests;
