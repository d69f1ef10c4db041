//! Classifies every failure of a database: one exhaustive function per library.
//!
//! The class alone decides between retry, dead letter and halt, so it must be right for every variant, in one place. Invariants: labels are a bounded
//! set; unknown failures are transient, because waiting loses nothing while a dead letter could be wrong for every record that follows; a failure
//! counts as "nothing applied" only if that is certain.

use ::scylla::errors::{
    BadQuery, BrokenConnectionError, ConnectionError, ConnectionPoolError, ConnectionSetupRequestErrorKind, DbError,
    ExecutionError, MetadataError, MetadataFetchErrorKind, NewSessionError, PrepareError, RequestAttemptError,
    UseKeyspaceError,
};
use rusqlite::ErrorCode;

use super::StoreError;
use crate::retry::Class;

/// A class and its label for metrics.
pub type Verdict = (Class, &'static str);

use Class::{Fatal, Permanent, Transient};

/// Classifies an execution that failed for good inside the driver.
pub fn execution(error: &ExecutionError) -> StoreError {
    let (class, label) = match error {
        ExecutionError::BadQuery(e) => bad_query(e),
        ExecutionError::EmptyPlan => (Transient, "no_node"),
        ExecutionError::PrepareError(e) => prepare_verdict(e),
        ExecutionError::ConnectionPoolError(e) => match pool(e) {
            // The login was accepted when the session was opened. A refusal now means that it is being rotated, and changed on one side first.
            (Fatal, "authentication") => (Transient, "authentication"),
            verdict => verdict,
        },
        ExecutionError::LastAttemptError(e) => attempt(e),
        ExecutionError::RequestTimeout(_) => (Transient, "timeout"),
        ExecutionError::UseKeyspaceError(e) => use_keyspace(e),
        ExecutionError::SchemaAgreementError(_) | ExecutionError::MetadataError(_) => (Transient, "metadata"),
        _ => (Transient, "unknown"),
    };
    let message = match label {
        "tombstones" => format!(
            "{}: the query meets more deleted rows and cells (tombstones) than the database may read. It is retried until they are compacted away: \
             compact the table, or change its data model. A step with on_error = \"dead_letter\" and retry.max_elapsed goes on",
            without_query(error.to_string())
        ),
        "read_failure" => without_query(error.to_string()),
        "consistency" => format!("{error}: give the step another consistency"),
        _ => error.to_string(),
    };
    StoreError::new(class, label, message)
}

/// The message of a look-up that replicas aborted, without the query: Cassandra quotes it with the record's values, and the look-up may be retried forever.
fn without_query(words: String) -> String {
    const BEFORE: &str = "aborted the query ";
    let (before, behind) = (words.find(BEFORE), words.rfind("(see "));
    match before.map(|at| at + BEFORE.len()).zip(behind) {
        Some((from, to)) if from <= to => format!("{}{}", &words[..from], &words[to..]),
        _ => words,
    }
}

/// Whether a failed execution has certainly applied nothing: no node was asked, or the node that was asked refused before it forwarded anything. This holds
/// only for a write that the driver does not treat as idempotent: it may have sent earlier attempts of others. A write to several partitions or with a
/// condition (not `plain`) may have been applied in part. An overloaded server may have applied it, and so may ScyllaDB for a counter (`adds`) when too few
/// nodes are alive: the leader adds to it before it looks for the others.
pub fn not_applied(error: &ExecutionError, plain: bool, adds: bool) -> bool {
    match error {
        // The node did not know the statement, so whatever the statement is, it was not executed.
        ExecutionError::LastAttemptError(RequestAttemptError::RepreparedIdChanged { .. }) => true,
        ExecutionError::EmptyPlan | ExecutionError::ConnectionPoolError(_) => plain,
        ExecutionError::LastAttemptError(e) => plain && refused(e, adds),
        _ => false,
    }
}

/// Whether an attempt has certainly applied nothing, as in [`not_applied`].
pub fn refused(error: &RequestAttemptError, adds: bool) -> bool {
    match error {
        RequestAttemptError::UnableToAllocStreamId => true,
        RequestAttemptError::DbError(e, words) => match e {
            DbError::Unavailable { .. } => !adds,
            // The server checks the statement itself before it forwards anything.
            DbError::IsBootstrapping | DbError::Invalid | DbError::SyntaxError => true,
            DbError::RateLimitReached {
                rejected_by_coordinator,
                ..
            } => *rejected_by_coordinator,
            e => rights_unknown(e, words),
        },
        _ => false,
    }
}

/// From this many bytes of values a write may exceed the default limit for one record of a commit log: half of a segment of 32 MiB.
const LARGE: usize = 16_000_000;

/// Explains a failed write of this many bytes. If a write is larger than the commit log accepts, some servers say only that replicas failed. The size may then
/// be the reason, but it is not certain.
pub fn write_of(error: StoreError, bytes: impl FnOnce() -> usize) -> StoreError {
    if error.label != "write_failure" {
        return error;
    }
    let bytes = bytes();
    if bytes < LARGE {
        return error;
    }
    let message = format!(
        "{error}: it writes {bytes} bytes, which may be more than one record of the database's commit log can hold (half of its \
         commitlog_segment_size; the database's log says so). If it is, it never succeeds: on_error = \"dead_letter\" with retry.max_elapsed lets \
         other records go on"
    );
    StoreError { message, ..error }
}

/// Classifies a refused TTL: if the row's TTL is the record's `own`, only that record is wrong, and others may have shorter TTLs.
pub fn life_of(error: StoreError, own: bool) -> StoreError {
    let class = if own && error.label == "expiration" {
        Permanent
    } else {
        error.class
    };
    StoreError { class, ..error }
}

/// Classifies a statement that could not be prepared. If the database answered, its own words are the message.
pub fn prepare(error: &PrepareError) -> StoreError {
    let (class, label) = prepare_verdict(error);
    let message = match error {
        PrepareError::AllAttemptsFailed {
            first_attempt: RequestAttemptError::DbError(_, words),
        } if !words.is_empty() => words.clone(),
        _ => error.to_string(),
    };
    StoreError::new(class, label, message)
}

/// Classifies a session that could not be opened.
pub fn session(error: &NewSessionError) -> StoreError {
    let (class, label) = match error {
        NewSessionError::FailedToResolveAnyHostname(_) => (Transient, "unresolved"),
        NewSessionError::EmptyKnownNodesList | NewSessionError::IllegalConfig(_) => (Fatal, "config"),
        NewSessionError::MetadataError(e) => metadata(e),
        NewSessionError::UseKeyspaceError(e) => use_keyspace(e),
        _ => (Transient, "unknown"),
    };
    StoreError::new(class, label, error.to_string())
}

/// Classifies a query that the driver could not send. For a value that cannot be encoded, the driver's message contains our own reason.
fn bad_query(error: &BadQuery) -> Verdict {
    match error {
        BadQuery::PartitionKeyExtraction | BadQuery::ValuesTooLongForKey(..) => (Permanent, "partition_key"),
        BadQuery::SerializationError(_) => (Permanent, "value"),
        BadQuery::TooManyQueriesInBatchStatement(_) => (Permanent, "invalid"),
        _ => (Permanent, "invalid"),
    }
}

fn prepare_verdict(error: &PrepareError) -> Verdict {
    match error {
        PrepareError::ConnectionPoolError(e) => pool(e),
        PrepareError::AllAttemptsFailed { first_attempt } => attempt(first_attempt),
        PrepareError::PreparedStatementIdsMismatch => (Transient, "schema_changing"),
        _ => (Transient, "unknown"),
    }
}

fn pool(error: &ConnectionPoolError) -> Verdict {
    match error {
        ConnectionPoolError::Broken { last_connection_error } => connection(last_connection_error),
        ConnectionPoolError::Initializing => (Transient, "connecting"),
        ConnectionPoolError::NodeDisabledByHostFilter => (Fatal, "config"),
        _ => (Transient, "connection"),
    }
}

fn connection(error: &ConnectionError) -> Verdict {
    match error {
        ConnectionError::ConnectTimeout => (Transient, "timeout"),
        ConnectionError::IoError(_)
        | ConnectionError::NoSourcePortForShard(_)
        | ConnectionError::TranslationError(_)
        | ConnectionError::BrokenConnection(_) => (Transient, "connection"),
        ConnectionError::ConnectionSetupRequestError(e) => setup(&e.error),
        ConnectionError::UseKeyspaceError(e) => use_keyspace(e),
        _ => (Transient, "connection"),
    }
}

fn setup(error: &ConnectionSetupRequestErrorKind) -> Verdict {
    use ConnectionSetupRequestErrorKind as E;
    match error {
        E::DbError(e, words) => database(e, words),
        E::StartAuthSessionError(_)
        | E::AuthChallengeEvaluationError(_)
        | E::AuthFinishError(_)
        | E::MissingAuthentication => (Fatal, "authentication"),
        E::UnableToAllocStreamId | E::BrokenConnection(_) => (Transient, "connection"),
        E::CqlRequestSerialization(_)
        | E::BodyExtensionsParseError(_)
        | E::UnexpectedResponse(_)
        | E::CqlSupportedParseError(_)
        | E::CqlAuthenticateParseError(_)
        | E::CqlAuthSuccessParseError(_)
        | E::CqlAuthChallengeParseError(_)
        | E::CqlErrorParseError(_) => (Transient, "protocol"),
        _ => (Transient, "connection"),
    }
}

fn metadata(error: &MetadataError) -> Verdict {
    match error {
        MetadataError::ConnectionPoolError(e) => pool(e),
        MetadataError::FetchError(e) => match &e.error {
            MetadataFetchErrorKind::PrepareError(e) => attempt(e),
            _ => (Transient, "metadata"),
        },
        _ => (Transient, "metadata"),
    }
}

fn use_keyspace(error: &UseKeyspaceError) -> Verdict {
    match error {
        UseKeyspaceError::BadKeyspaceName(_) | UseKeyspaceError::KeyspaceNameMismatch { .. } => (Fatal, "keyspace"),
        // How the server reports a keyspace that does not exist, or that this user may not use.
        UseKeyspaceError::RequestError(RequestAttemptError::DbError(
            e @ (DbError::Invalid | DbError::Unauthorized),
            words,
        )) if !rights_unknown(e, words) => (Fatal, "keyspace"),
        UseKeyspaceError::RequestError(e) => attempt(e),
        UseKeyspaceError::RequestTimeout(_) => (Transient, "timeout"),
        _ => (Transient, "unknown"),
    }
}

fn attempt(error: &RequestAttemptError) -> Verdict {
    match error {
        RequestAttemptError::SerializationError(_) => (Permanent, "value"),
        RequestAttemptError::CqlRequestSerialization(_) => (Permanent, "too_large"),
        RequestAttemptError::UnableToAllocStreamId => (Transient, "overloaded"),
        RequestAttemptError::BrokenConnectionError(e) => broken(e),
        RequestAttemptError::DbError(e, words) => database(e, words),
        RequestAttemptError::BodyExtensionsParseError(_)
        | RequestAttemptError::CqlResultParseError(_)
        | RequestAttemptError::CqlErrorParseError(_)
        | RequestAttemptError::UnexpectedResponse(_)
        | RequestAttemptError::NonfinishedPagingState => (Transient, "protocol"),
        RequestAttemptError::RepreparedIdChanged { .. } => (Transient, "other_id"),
        RequestAttemptError::RepreparedIdMissingInBatch => (Transient, "schema_changing"),
        _ => (Transient, "unknown"),
    }
}

fn broken(_: &BrokenConnectionError) -> Verdict {
    (Transient, "connection")
}

/// Whether a refusal only means that the server could not look up the user or the rights: Cassandra's words when its own read of them failed.
fn rights_unknown(error: &DbError, words: &str) -> bool {
    matches!(error, DbError::AuthenticationError | DbError::Unauthorized) && words.starts_with("Unable to perform")
}

/// Whether the server's words are those of its commit log for a write that is larger than one of its records may be. Some servers say only that
/// replicas failed, which says nothing about the write.
fn above_the_log(words: &str) -> bool {
    words.contains("is too large for the max") || words.contains("oversized mutation")
}

/// Whether the server's words are ScyllaDB's for a key longer than its 16-bit length can express, which it reports as an error of its own.
fn key_too_long(words: &str) -> bool {
    words.contains("Key size too large")
}

/// Whether the server's words mean that it met too many tombstones: the reason of replicas as Cassandra lists it, which in CQL 4 is only in the message, and
/// the words of the coordinator from Cassandra 4.1 on. Other servers say only that replicas failed.
fn too_many_tombstones(words: &str) -> bool {
    words.contains("READ_TOO_MANY_TOMBSTONES") || words.contains("tombstone_failure_threshold")
}

/// Whether the server's words mean that a replica's disk is too full for writes: Cassandra's guardrail, which it reports as "invalid" although it passes. The
/// words must be at the start, because an error about JSON quotes the record's own text.
fn disk_full(words: &str) -> bool {
    let named = words.strip_prefix("Guardrail ");
    let (_, why) = named
        .and_then(|named| named.split_once(" violated: "))
        .unwrap_or(("", words));
    why.starts_with("Write request failed because disk usage exceeds")
}

/// Whether the server's words mean that it does not accept the consistency level: each_quorum for a look-up in ScyllaDB, and in Cassandra before 3.0;
/// each_quorum for a write to a keyspace of SimpleStrategy; any for a counter; a level that guardrails forbid. The words must be at the start, as in
/// [`disk_full`].
fn level_refused(words: &str) -> bool {
    const STARTS: [&str; 6] = [
        "any consistencylevel is only ",
        "each_quorum consistencylevel is only ",
        "consistency level ",
        "write consistency level ",
        "guardrail read_consistency_levels ",
        "guardrail write_consistency_levels ",
    ];
    let words = words.to_ascii_lowercase();
    STARTS.iter().any(|start| words.starts_with(start))
}

/// Whether the server's words mean that the row would expire later than it can store: after 2038-01-19 in Cassandra up to 4.1, and in 5.0 while it keeps the
/// older format. It says so for each write, but not when it prepares a statement. The words must be at the start: elsewhere they may be the record's text.
fn ends_too_late(words: &str) -> bool {
    words.starts_with("Request on table ") && words.contains(" exceeds maximum supported expiration date ")
}

/// Classifies an answer of the server, with its words.
pub fn database(error: &DbError, words: &str) -> Verdict {
    match error {
        error if rights_unknown(error, words) => (Transient, "rights_unknown"),
        DbError::ServerError | DbError::WriteFailure { .. } if above_the_log(words) => (Permanent, "too_large"),
        DbError::ServerError if key_too_long(words) => (Permanent, "too_large"),
        DbError::SyntaxError => (Permanent, "syntax"),
        DbError::Invalid if disk_full(words) => (Transient, "disk_full"),
        // Not about this record: the configuration applies to all.
        DbError::Invalid if level_refused(words) => (Fatal, "consistency"),
        DbError::Invalid if ends_too_late(words) => (Fatal, "expiration"),
        DbError::Invalid => (Permanent, "invalid"),
        DbError::AlreadyExists { .. } | DbError::ConfigError => (Permanent, "invalid"),
        DbError::FunctionFailure { .. } => (Permanent, "function"),
        DbError::AuthenticationError => (Fatal, "authentication"),
        // Not about this record: all others would fail the same way until somebody grants the right.
        DbError::Unauthorized => (Fatal, "unauthorized"),
        DbError::Unavailable { .. } => (Transient, "unavailable"),
        DbError::Overloaded => (Transient, "overloaded"),
        DbError::IsBootstrapping => (Transient, "bootstrapping"),
        DbError::TruncateError => (Transient, "truncate"),
        DbError::ReadTimeout { .. } => (Transient, "read_timeout"),
        DbError::WriteTimeout { .. } => (Transient, "write_timeout"),
        DbError::ReadFailure { .. } if too_many_tombstones(words) => (Transient, "tombstones"),
        DbError::ReadFailure { .. } => (Transient, "read_failure"),
        DbError::WriteFailure { .. } => (Transient, "write_failure"),
        DbError::Unprepared { .. } => (Transient, "unprepared"),
        DbError::ServerError => (Transient, "server_error"),
        DbError::ProtocolError => (Transient, "protocol"),
        DbError::RateLimitReached { .. } => (Transient, "rate_limit"),
        DbError::Other(_) => (Transient, "unknown"),
        _ => (Transient, "unknown"),
    }
}

/// Classifies an error of SQLite by its primary result code.
pub fn sqlite(error: &rusqlite::Error) -> StoreError {
    use rusqlite::Error as E;
    let (class, label) = match error {
        E::SqliteFailure(e, _) | E::SqlInputError { error: e, .. } => sqlite_code(e.code),
        E::SqliteSingleThreadedMode | E::InvalidPath(_) => (Fatal, "config"),
        E::FromSqlConversionFailure(..) | E::IntegralValueOutOfRange(..) | E::Utf8Error(..) | E::NulError(_) => {
            (Permanent, "value")
        }
        E::InvalidColumnType(..) | E::ToSqlConversionFailure(_) => (Permanent, "value"),
        E::InvalidParameterName(_)
        | E::ExecuteReturnedResults
        | E::QueryReturnedNoRows
        | E::QueryReturnedMoreThanOneRow
        | E::InvalidColumnIndex(_)
        | E::InvalidColumnName(_)
        | E::StatementChangedRows(_)
        | E::InvalidQuery
        | E::MultipleStatement
        | E::InvalidParameterCount(..) => (Permanent, "invalid"),
        _ => (Transient, "unknown"),
    };
    StoreError::new(class, label, format!("SQLite: {error}"))
}

fn sqlite_code(code: ErrorCode) -> Verdict {
    match code {
        ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::FileLockingProtocolFailed => {
            (Transient, "busy")
        }
        ErrorCode::SystemIoFailure => (Transient, "io"),
        ErrorCode::DiskFull => (Transient, "disk_full"),
        ErrorCode::OutOfMemory => (Transient, "out_of_memory"),
        ErrorCode::OperationInterrupted | ErrorCode::OperationAborted => (Transient, "interrupted"),
        ErrorCode::SchemaChanged => (Transient, "schema_changing"),
        ErrorCode::ConstraintViolation => (Permanent, "constraint"),
        ErrorCode::TypeMismatch => (Permanent, "value"),
        ErrorCode::TooBig => (Permanent, "too_large"),
        // SQLite's code for everything wrong with a statement: syntax, no such table, no such column.
        ErrorCode::Unknown => (Permanent, "invalid"),
        ErrorCode::ApiMisuse | ErrorCode::ParameterOutOfRange | ErrorCode::NotFound => (Permanent, "invalid"),
        ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase => (Fatal, "corrupt"),
        ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::AuthorizationForStatementDenied => {
            (Fatal, "read_only")
        }
        ErrorCode::CannotOpen | ErrorCode::NoLargeFileSupport => (Fatal, "cannot_open"),
        ErrorCode::InternalMalfunction => (Fatal, "internal"),
        _ => (Transient, "unknown"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ::scylla::errors::{OperationType, WriteType};
    use ::scylla::statement::Consistency;
    use std::time::Duration;

    #[test]
    fn what_may_pass_is_retried_and_what_cannot_is_not() {
        let answered = |e: DbError| {
            execution(&ExecutionError::LastAttemptError(RequestAttemptError::DbError(
                e,
                "why".into(),
            )))
        };
        assert_eq!(answered(DbError::Overloaded).class, Transient);
        assert_eq!(answered(DbError::Invalid).class, Permanent);
        assert_eq!(answered(DbError::Other(0x7777)).class, Transient);
        let timeout = execution(&ExecutionError::RequestTimeout(Duration::from_secs(1)));
        assert_eq!((timeout.class, timeout.label), (Transient, "timeout"));
        assert!(
            answered(DbError::SyntaxError).message.contains("why"),
            "the server's words are kept"
        );
    }

    #[test]
    fn each_answer_of_a_server_has_its_class() {
        let (consistency, received, required, numfailures) = (Consistency::Quorum, 1, 2, 1);
        let text = str::to_owned;
        for (error, wanted) in [
            (DbError::SyntaxError, (Permanent, "syntax")),
            (DbError::Invalid, (Permanent, "invalid")),
            (
                DbError::AlreadyExists {
                    keyspace: text("k"),
                    table: text("t"),
                },
                (Permanent, "invalid"),
            ),
            (DbError::ConfigError, (Permanent, "invalid")),
            (
                DbError::FunctionFailure {
                    keyspace: text("k"),
                    function: text("f"),
                    arg_types: Vec::new(),
                },
                (Permanent, "function"),
            ),
            (DbError::AuthenticationError, (Fatal, "authentication")),
            (DbError::Unauthorized, (Fatal, "unauthorized")),
            (
                DbError::Unavailable {
                    consistency,
                    required,
                    alive: 1,
                },
                (Transient, "unavailable"),
            ),
            (DbError::Overloaded, (Transient, "overloaded")),
            (DbError::IsBootstrapping, (Transient, "bootstrapping")),
            (DbError::TruncateError, (Transient, "truncate")),
            (
                DbError::ReadTimeout {
                    consistency,
                    received,
                    required,
                    data_present: false,
                },
                (Transient, "read_timeout"),
            ),
            (
                DbError::WriteTimeout {
                    consistency,
                    received,
                    required,
                    write_type: WriteType::Simple,
                },
                (Transient, "write_timeout"),
            ),
            (
                DbError::ReadFailure {
                    consistency,
                    received,
                    required,
                    numfailures,
                    data_present: false,
                },
                (Transient, "read_failure"),
            ),
            (
                DbError::WriteFailure {
                    consistency,
                    received,
                    required,
                    numfailures,
                    write_type: WriteType::Simple,
                },
                (Transient, "write_failure"),
            ),
            (
                DbError::Unprepared {
                    statement_id: Default::default(),
                },
                (Transient, "unprepared"),
            ),
            (DbError::ServerError, (Transient, "server_error")),
            (DbError::ProtocolError, (Transient, "protocol")),
            (
                DbError::RateLimitReached {
                    op_type: OperationType::Write,
                    rejected_by_coordinator: false,
                },
                (Transient, "rate_limit"),
            ),
            (DbError::Other(0x7777), (Transient, "unknown")),
        ] {
            assert_eq!(database(&error, "why"), wanted, "{error}");
        }
    }

    #[test]
    fn a_login_refused_is_fatal() {
        let missing = ConnectionSetupRequestErrorKind::MissingAuthentication;
        assert_eq!(setup(&missing), (Fatal, "authentication"));
        assert_eq!(database(&DbError::AuthenticationError, "wrong password").0, Fatal);
        assert_eq!(
            database(&DbError::Unauthorized, "User a has no SELECT permission").0,
            Fatal
        );
    }

    #[test]
    fn rights_that_the_server_could_not_look_up_are_looked_up_again() {
        let words = "Unable to perform authorization of permissions: Operation timed out - received only 0 responses.";
        let refused = RequestAttemptError::DbError(DbError::Unauthorized, words.to_owned());
        let refused = execution(&ExecutionError::LastAttemptError(refused));
        assert_eq!((refused.class, refused.label), (Transient, "rights_unknown"));
        let login = ConnectionSetupRequestErrorKind::DbError(
            DbError::AuthenticationError,
            "Unable to perform authentication: Cannot achieve consistency level LOCAL_ONE".to_owned(),
        );
        assert_eq!(setup(&login), (Transient, "rights_unknown"));
        let refused = RequestAttemptError::DbError(DbError::Unauthorized, words.to_owned());
        assert_eq!(use_keyspace(&UseKeyspaceError::RequestError(refused)).0, Transient);
    }

    #[test]
    fn a_write_that_is_larger_than_the_commit_log_takes_is_not_made_again() {
        let failure = DbError::WriteFailure {
            consistency: Consistency::Quorum,
            received: 0,
            required: 2,
            numfailures: 2,
            write_type: WriteType::Simple,
        };
        for words in [
            "Mutation of 22388231 bytes is too large for the maximum size of 16777216",
            "Encountered an oversized mutation (9437296/8388608) for keyspace: k",
        ] {
            assert_eq!(database(&failure, words), (Permanent, "too_large"));
            assert_eq!(database(&DbError::ServerError, words), (Permanent, "too_large"));
        }
        let words = "Operation failed - received 0 responses and 2 failures";
        assert_eq!(database(&failure, words), (Transient, "write_failure"));
    }

    #[test]
    fn what_a_record_says_does_not_decide_what_its_refusal_means() {
        let full = "Write request failed because disk usage exceeds failure threshold";
        let violated = format!("Guardrail replica_disk_usage violated: {full}");
        for words in [full, violated.as_str()] {
            assert_eq!(database(&DbError::Invalid, words), (Transient, "disk_full"));
        }
        for text in [
            full,
            "EACH_QUORUM ConsistencyLevel is only supported for writes",
            "consistency level ANY is not yet supported for counter",
        ] {
            for words in [
                format!("JSON values map contains unrecognized column: {text}"),
                format!("Could not decode JSON string as a map: x. (String was: {text})"),
            ] {
                assert_eq!(database(&DbError::Invalid, &words), (Permanent, "invalid"), "{words}");
            }
        }
    }

    #[test]
    fn a_key_that_is_too_long_for_scylladb_is_not_sent_again() {
        let answered = |words| database(&DbError::ServerError, words);
        assert_eq!(answered("Key size too large: 65562 > 65535"), (Permanent, "too_large"));
        assert_eq!(answered("std::bad_alloc (std::bad_alloc)"), (Transient, "server_error"));
    }

    #[test]
    fn a_level_that_is_not_taken_is_the_configurations_mistake() {
        for words in [
            "EACH_QUORUM ConsistencyLevel is only supported for writes",
            "ANY ConsistencyLevel is only supported for writes",
            "consistency level EACH_QUORUM not compatible with replication strategy (org.apache.cassandra.locator.SimpleStrategy)",
            "Consistency level ANY is not yet supported for counter table visits",
            "Write consistency level ANY is forbidden by the current configuration setting of write_consistency_levels_disallowed.",
            "Guardrail write_consistency_levels violated: Provided values [ANY] are not allowed for write consistency levels",
        ] {
            let refused = RequestAttemptError::DbError(DbError::Invalid, words.to_owned());
            let error = execution(&ExecutionError::LastAttemptError(refused));
            assert_eq!((error.class, error.label), (Fatal, "consistency"), "{words}");
            assert!(
                error.message.contains(words) && error.message.contains("another consistency"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_life_that_ends_too_late_is_the_steps_mistake_unless_it_is_the_records() {
        let words = "Request on table k.t with ttl of 630720000 seconds exceeds maximum supported expiration date of 2038-01-19T03:14:06+00:00. \
                     In order to avoid this use a lower TTL or upgrade to a version where this limitation is fixed. See CASSANDRA-14092 for more details.";
        let refused = RequestAttemptError::DbError(DbError::Invalid, words.to_owned());
        let error = execution(&ExecutionError::LastAttemptError(refused));
        assert_eq!((error.class, error.label), (Fatal, "expiration"));
        assert_eq!(life_of(error.clone(), false), error);
        assert_eq!(life_of(error, true).class, Permanent);
        let other = StoreError::transient("timeout", "no answer");
        assert_eq!(life_of(other.clone(), true), other);
        // The same words inside the text of a record.
        let words = format!("Could not decode JSON string as a map: x. (String was: {words})");
        assert_eq!(database(&DbError::Invalid, &words), (Permanent, "invalid"));
    }

    #[test]
    fn a_large_write_that_failed_without_a_reason_is_told_to_be_large() {
        let failed = |label| StoreError::transient(label, "Operation failed - received 0 responses and 2 failures");
        let large = write_of(failed("write_failure"), || LARGE);
        assert_eq!((large.class, large.label), (Transient, "write_failure"));
        assert!(
            large.message.contains("2 failures: it writes 16000000 bytes"),
            "{large}"
        );
        assert_eq!(write_of(failed("write_failure"), || 1000), failed("write_failure"));
        assert_eq!(write_of(failed("write_timeout"), || LARGE), failed("write_timeout"));
    }

    #[test]
    fn too_many_tombstones_are_called_that_and_the_remedy_is_told() {
        let failed = |words: &str| {
            let failure = DbError::ReadFailure {
                consistency: Consistency::LocalQuorum,
                received: 0,
                required: 2,
                numfailures: 2,
                data_present: false,
            };
            let failure = RequestAttemptError::DbError(failure, words.to_owned());
            execution(&ExecutionError::LastAttemptError(failure))
        };
        for words in [
            "Operation failed - received 0 responses and 2 failures: READ_TOO_MANY_TOMBSTONES from 10.0.0.1:7000",
            "2 nodes scanned over 100001 tombstones and aborted the query (see tombstone_failure_threshold)",
        ] {
            // The message quotes the query with the record's values; the server's own words come last.
            let query = "aborted the query SELECT * FROM users WHERE name = 'ann (see b)' ALLOW FILTERING ";
            let error = failed(&words.replace("aborted the query ", query));
            assert_eq!((error.class, error.label), (Transient, "tombstones"));
            assert!(
                error.message.contains(words) && error.message.contains("retry.max_elapsed"),
                "{error}"
            );
        }
        let error = failed("Operation failed for shop.tombstones - received 0 responses and 2 failures");
        assert_eq!((error.class, error.label), (Transient, "read_failure"));
        assert!(!error.message.contains("retry.max_elapsed"), "{error}");
        let error = failed(
            "1 nodes loaded over 9 bytes and aborted the query SELECT 'ann' (see local_read_size_fail_threshold)",
        );
        assert!(
            error.message.ends_with("query (see local_read_size_fail_threshold)"),
            "{error}"
        );
    }

    #[test]
    fn only_what_was_refused_before_it_was_sent_on_is_not_applied() {
        let answered = |e: DbError| ExecutionError::LastAttemptError(RequestAttemptError::DbError(e, String::new()));
        let limit = |rejected_by_coordinator| DbError::RateLimitReached {
            op_type: OperationType::Write,
            rejected_by_coordinator,
        };
        let unavailable = DbError::Unavailable {
            consistency: Consistency::Quorum,
            required: 2,
            alive: 1,
        };
        let of_a_counter = answered(unavailable.clone());
        assert!(!not_applied(&of_a_counter, true, true));
        assert!(not_applied(&answered(DbError::IsBootstrapping), true, true));
        // The driver repeats this whatever the statement is, because nothing was applied.
        assert!(refused(&RequestAttemptError::UnableToAllocStreamId, true));
        for sure in [
            ExecutionError::EmptyPlan,
            ExecutionError::ConnectionPoolError(ConnectionPoolError::Initializing),
            ExecutionError::LastAttemptError(RequestAttemptError::UnableToAllocStreamId),
            answered(unavailable),
            answered(DbError::IsBootstrapping),
            answered(limit(true)),
        ] {
            assert!(not_applied(&sure, true, false), "{sure}");
            assert!(!not_applied(&sure, false, false), "{sure}");
            assert_eq!(execution(&sure).class, Transient, "{sure}");
        }
        for wrong in [DbError::Invalid, DbError::SyntaxError] {
            assert!(not_applied(&answered(wrong), true, true));
        }
        for unsure in [
            ExecutionError::RequestTimeout(Duration::from_secs(1)),
            answered(DbError::Overloaded),
            answered(DbError::ServerError),
            answered(limit(false)),
            answered(DbError::WriteTimeout {
                consistency: Consistency::Quorum,
                received: 0,
                required: 2,
                write_type: WriteType::Simple,
            }),
        ] {
            assert!(!not_applied(&unsure, true, false), "{unsure}");
        }
    }

    #[test]
    fn a_statement_that_the_node_did_not_know_was_not_run_whatever_it_says() {
        let other_id = || RequestAttemptError::RepreparedIdChanged {
            statement: "UPDATE t SET n = n + 1 WHERE id IN (:a, :b)".to_owned(),
            expected_id: vec![1],
            reprepared_id: vec![2],
        };
        let error = ExecutionError::LastAttemptError(other_id());
        assert_eq!(execution(&error).label, "other_id");
        for (plain, adds) in [(true, false), (true, true), (false, true)] {
            assert!(not_applied(&error, plain, adds));
        }
        assert!(
            !refused(&other_id(), true),
            "the driver has no other id to repeat it by"
        );
    }

    #[test]
    fn sqlite_codes_are_told_apart() {
        assert_eq!(sqlite_code(ErrorCode::DatabaseBusy).0, Transient);
        assert_eq!(sqlite_code(ErrorCode::ConstraintViolation).0, Permanent);
        assert_eq!(sqlite_code(ErrorCode::NotADatabase).0, Fatal);
    }
}
