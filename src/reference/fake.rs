//! A fake MongoDB server for tests: the only member of a replica set, whose answers a test can choose per command.

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Document, doc};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};

/// The cursor for a command of this name, or its error ([`refused`]); `None` if the command is never answered.
type Cursors = Arc<dyn Fn(&str) -> Option<Document> + Send + Sync>;

/// A cursor without documents.
pub(crate) fn nothing() -> Document {
    all(Vec::new())
}

/// A cursor with these documents, and no more.
pub(crate) fn all(documents: Vec<Document>) -> Document {
    doc! { "id": 0_i64, "ns": "crm.partners", "firstBatch": documents }
}

/// An error with this code, in place of a cursor.
pub(crate) fn refused(code: i32) -> Document {
    doc! { "ok": 0, "code": code, "errmsg": "as the test wants" }
}

/// Starts a member; returns its address and the commands that it receives. Each command takes the time `takes`.
pub(crate) async fn member(
    is_primary: bool,
    takes: Duration,
    cursors: impl Fn(&str) -> Option<Document> + Send + Sync + 'static,
) -> (String, UnboundedReceiver<Document>) {
    let cursors: Cursors = Arc::new(cursors);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (asked, commands) = mpsc::unbounded_channel();
    let hello = doc! {
        "ok": 1, "helloOk": true, "isWritablePrimary": is_primary, "secondary": !is_primary, "setName": "rs", "hosts": [&address],
        "me": &address, "minWireVersion": 0, "maxWireVersion": 21, "maxBsonObjectSize": 16_777_216, "maxMessageSizeBytes": 48_000_000,
    };
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer(stream, hello.clone(), asked.clone(), takes, cursors.clone()));
        }
    });
    (address, commands)
}

async fn answer(
    mut stream: TcpStream,
    hello: Document,
    asked: UnboundedSender<Document>,
    takes: Duration,
    cursors: Cursors,
) {
    let mut head = [0; 16];
    while stream.read_exact(&mut head).await.is_ok() {
        let word = |at: usize| i32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        let mut body = vec![0; usize::try_from(word(0)).unwrap() - head.len()];
        stream.read_exact(&mut body).await.unwrap();
        // The document follows the flags and the kind of the section.
        let command = Document::from_reader(&body[5..]).unwrap();
        let name = command.keys().next().unwrap().clone();
        let reply = if name == "hello" || name.eq_ignore_ascii_case("ismaster") {
            hello.clone()
        } else {
            let cursor = cursors(&name);
            // The test may no longer listen.
            let _ = asked.send(command);
            tokio::time::sleep(takes).await;
            match cursor {
                Some(refused) if refused.contains_key("ok") => refused,
                Some(cursor) => doc! { "ok": 1, "cursor": cursor },
                None => std::future::pending().await,
            }
        };
        let reply = reply.to_vec().unwrap();
        let length = i32::try_from(head.len() + 5 + reply.len()).unwrap();
        let mut message = Vec::new();
        for word in [length, 0, word(4), 2013, 0] {
            message.extend_from_slice(&word.to_le_bytes());
        }
        message.push(0);
        message.extend_from_slice(&reply);
        if stream.write_all(&message).await.is_err() {
            return;
        }
    }
}
