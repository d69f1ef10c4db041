//! Tests of tokens: fetched once for all, again before they expire and when they are refused; no record is lost while the server is down.

use std::sync::{Arc, Mutex as Plain};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::certificates::PemFiles;
use crate::registry::Registry;
use crate::retry::Class;

/// A server's answer: the status with further lines of the head, and the body.
type Said = (&'static str, String);

/// Requests as they were received: head and body.
#[derive(Clone, Default)]
struct Heard(Arc<Plain<Vec<String>>>);

impl Heard {
    fn all(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Starts a server that answers each request with `say(request, number)`; returns its address and the requests that it receives.
async fn server(say: impl Fn(&str, usize) -> Said + Send + 'static) -> (String, Heard) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard = Heard::default();
    let into = heard.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            while !complete(&request) && stream.read_buf(&mut request).await.unwrap_or(0) > 0 {}
            let request = String::from_utf8(request).unwrap();
            let number = {
                let mut heard = into.0.lock().unwrap();
                heard.push(request.clone());
                heard.len()
            };
            let (head, body) = say(&request, number);
            let length = body.len();
            let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}");
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (url, heard)
}

fn complete(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return false;
    };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |n| n.trim().parse().unwrap())
}

/// An answer that grants a token with this number.
fn granted(number: usize, expires_in: &str) -> Said {
    let body = format!(r#"{{"access_token":"t0ken-{number}","token_type":"Bearer","expires_in":{expires_in}}}"#);
    ("200 OK", body)
}

fn options(endpoint: &str) -> OauthOptions {
    OauthOptions {
        token_endpoint: format!("{endpoint}/token"),
        client_id: "messina: one".to_owned(),
        client_secret: "s3cret+/%".to_owned(),
        scope: Some("read write".to_owned()),
        certificates: PemFiles::default(),
    }
}

fn tokens(endpoint: &str) -> Tokens {
    Tokens::new(&options(endpoint), &RegistryOptions::default()).unwrap_or_else(|e| panic!("{e}"))
}

#[tokio::test]
async fn a_token_is_asked_for_as_the_rfc_says_and_held() {
    let (url, heard) = server(|_, number| granted(number, "3600")).await;
    let tokens = tokens(&url);
    for _ in 0..3 {
        assert_eq!(tokens.authorization(None).await.unwrap(), "Bearer t0ken-1");
    }
    let heard = heard.all();
    let [request] = heard.as_slice() else {
        panic!("{heard:?}")
    };
    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    // `messina%3A+one:s3cret%2B%2F%25`: form-encoded first, so that a colon in the client id does not end it.
    let login = "authorization: Basic bWVzc2luYSUzQStvbmU6czNjcmV0JTJCJTJGJTI1\r\n";
    assert!(request.contains(login), "{request}");
    assert!(
        request.contains("content-type: application/x-www-form-urlencoded\r\n"),
        "{request}"
    );
    assert!(
        request.ends_with("\r\n\r\ngrant_type=client_credentials&scope=read+write"),
        "{request}"
    );
}

#[tokio::test]
async fn callers_share_one_request() {
    let (url, heard) = server(|_, number| granted(number, "3600")).await;
    let tokens = tokens(&url);
    let all = futures_util::future::join_all((0..20).map(|_| tokens.authorization(None))).await;
    assert!(all.iter().all(|token| token.as_ref().unwrap() == "Bearer t0ken-1"));
    assert_eq!(heard.all().len(), 1);
}

#[tokio::test]
async fn callers_share_one_failure_and_later_ones_ask_again() {
    let (url, heard) = server(|_, _| ("503 Service Unavailable", "later".into())).await;
    let tokens = tokens(&url);
    let all = futures_util::future::join_all((0..20).map(|_| tokens.authorization(None))).await;
    assert!(all.iter().all(Result::is_err));
    assert_eq!(heard.all().len(), 1);
    assert!(tokens.authorization(None).await.is_err());
    assert_eq!(heard.all().len(), 2);
}

#[tokio::test]
async fn a_token_is_renewed_before_it_ends_and_serves_on_while_that_fails() {
    let (url, heard) = server(|_, number| match number {
        1 | 4 => granted(number, "\"3600\""),
        _ => ("500 Internal Server Error", String::new()),
    })
    .await;
    let tokens = tokens(&url);
    let began = Instant::now();
    let after = |seconds| tokens.at(began + Duration::from_secs(seconds), None);
    assert_eq!(after(0).await.unwrap(), "Bearer t0ken-1");
    assert_eq!(after(3500).await.unwrap(), "Bearer t0ken-1");
    assert_eq!(heard.all().len(), 1, "long before its end");
    assert_eq!(after(3550).await.unwrap(), "Bearer t0ken-1");
    assert_eq!(heard.all().len(), 2, "shortly before its end");
    let error = after(3600).await.unwrap_err();
    assert_eq!(
        (heard.all().len(), error.class()),
        (3, Class::Transient),
        "after its end: {error}"
    );
    assert_eq!(after(3601).await.unwrap(), "Bearer t0ken-4");
}

#[test]
fn a_token_of_which_no_end_is_known_is_held() {
    let now = Instant::now();
    let times = |json: serde_json::Value| {
        times(now, &json).map(|(renew, end)| ((renew - now).as_secs(), (end - now).as_secs()))
    };
    assert_eq!(times(serde_json::json!(3600)), Some((3540, 3600)));
    assert_eq!(times(serde_json::json!("100")), Some((80, 100)));
    assert_eq!(times(serde_json::json!(0)), Some((0, 0)));
    for other in [
        serde_json::json!(null),
        serde_json::json!(-1),
        serde_json::json!("soon"),
        serde_json::json!(u64::MAX),
    ] {
        assert_eq!(times(other.clone()), None, "{other}");
    }
}

#[tokio::test]
async fn a_refused_token_is_fetched_anew_and_once_only() {
    let (login, heard) = server(|_, number| granted(number, "3600")).await;
    let shown = Arc::new(Plain::new(Vec::new()));
    let into = shown.clone();
    let (url, _) = server(move |request, _| {
        let line = request
            .lines()
            .find_map(|line| line.strip_prefix("authorization: "))
            .unwrap_or_default();
        into.lock().unwrap().push(line.to_owned());
        if line == "Bearer t0ken-2" {
            ("200 OK", r#"{"schema":"\"string\""}"#.into())
        } else {
            ("401 Unauthorized", r#"{"error_code":401,"message":"no"}"#.into())
        }
    })
    .await;
    let registry = Registry::new(RegistryOptions {
        urls: vec![url],
        oauth: Some(options(&login)),
        ..RegistryOptions::default()
    })
    .unwrap();
    assert_eq!(registry.schema(1).await.unwrap().schema, "\"string\"");
    assert_eq!(registry.schema(2).await.unwrap().schema, "\"string\"");
    assert_eq!(
        *shown.lock().unwrap(),
        ["Bearer t0ken-1", "Bearer t0ken-2", "Bearer t0ken-2"]
    );
    assert_eq!(heard.all().len(), 2);
}

#[tokio::test]
async fn a_token_serves_on_beside_renewed_certificates_unless_it_would_be_asked_for_otherwise() {
    let (login, heard) = server(|_, number| match number {
        1 => granted(number, "3600"),
        _ => ("503 Service Unavailable", "later".into()),
    })
    .await;
    let (url, _) = server(|_, _| ("200 OK", r#"{"schema":"\"string\""}"#.into())).await;
    let of = |oauth: OauthOptions| RegistryOptions {
        urls: vec![url.clone()],
        oauth: Some(oauth),
        ..RegistryOptions::default()
    };
    let registry = Registry::new(of(options(&login))).unwrap();
    assert_eq!(registry.schema(1).await.unwrap().schema, "\"string\"");
    registry.renew(|| Ok(of(options(&login)))).unwrap();
    assert_eq!(registry.schema(2).await.unwrap().schema, "\"string\"");
    assert_eq!(heard.all().len(), 1);
    // A reload of the login requests a new token, because its permissions may have changed.
    registry.reload(|| Ok(of(options(&login)))).unwrap();
    assert!(registry.schema(3).await.is_err());
    assert_eq!(heard.all().len(), 2);
    let mut other = options(&login);
    other.client_secret = "another".to_owned();
    registry.renew(|| Ok(of(other))).unwrap();
    assert!(registry.schema(3).await.is_err());
    assert_eq!(heard.all().len(), 3);
}

#[tokio::test]
async fn a_registry_that_refuses_every_token_is_no_loop() {
    let (login, heard) = server(|_, number| granted(number, "3600")).await;
    let (url, asked) = server(|_, _| ("401 Unauthorized", String::new())).await;
    let registry = Registry::new(RegistryOptions {
        urls: vec![url],
        oauth: Some(options(&login)),
        ..RegistryOptions::default()
    })
    .unwrap();
    let error = registry.schema(1).await.unwrap_err();
    assert!(matches!(error, RegistryError::Refused { status: 401, .. }), "{error}");
    assert_eq!((heard.all().len(), asked.all().len()), (2, 2));
}

#[tokio::test]
async fn a_token_that_one_address_refuses_serves_the_others_while_no_other_can_be_had() {
    let once = |_: &str, number: usize| match number {
        1 => granted(number, "3600"),
        _ => ("503 Service Unavailable", "later".into()),
    };
    let (refuses, asked) = server(|_, _| ("401 Unauthorized", r#"{"error_code":401,"message":"no"}"#.into())).await;
    let (takes, _) = server(|_, _| ("200 OK", r#"{"schema":"\"string\""}"#.into())).await;
    let registry = |urls: &[&String], login: &str| {
        Registry::new(RegistryOptions {
            urls: urls.iter().map(|url| (*url).clone()).collect(),
            oauth: Some(options(login)),
            ..RegistryOptions::default()
        })
        .unwrap()
    };
    let (login, heard) = server(once).await;
    let both = registry(&[&refuses, &takes], &login);
    assert_eq!(both.schema(1).await.unwrap().schema, "\"string\"");
    assert_eq!(both.schema(2).await.unwrap().schema, "\"string\"");
    assert_eq!((heard.all().len(), asked.all().len()), (2, 1));

    let (login, heard) = server(once).await;
    let error = registry(&[&refuses, &refuses], &login).schema(1).await.unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, RegistryError::Refused { status: 401, .. }), "{text}");
    assert!(
        text.contains("answers 401: no; cannot get another token: token endpoint"),
        "{text}"
    );
    assert_eq!(heard.all().len(), 2, "once for the token, and once for another");
}

#[tokio::test]
async fn what_fails_is_named_may_pass_and_tells_no_secret() {
    let big = "x".repeat(LARGEST + 1);
    let cases: Vec<(Said, &[&str])> = vec![
        (
            (
                "401 Unauthorized",
                r#"{"error":"invalid_client","error_description":"Wrong secret"}"#.into(),
            ),
            &[
                "answers 401",
                "invalid_client: Wrong secret",
                "`client_id` and `client_secret` of [registry.oauth]",
            ],
        ),
        (
            ("400 Bad Request", r#"{"error":"invalid_scope"}"#.into()),
            &["answers 400", "`scope` of [registry.oauth]"],
        ),
        (
            ("400 Bad Request", r#"{"error":"unauthorized_client"}"#.into()),
            &["answers 400", "`client_id`"],
        ),
        (
            ("401 Unauthorized", "<html>".into()),
            &["answers 401: <html>", "`client_secret`"],
        ),
        (("503 Service Unavailable", "later".into()), &["answers 503: later"]),
        (
            ("307 Temporary Redirect\r\nlocation: /elsewhere", String::new()),
            &["answers 307", "redirects"],
        ),
        (("200 OK", "<html>".into()), &["no `access_token`"]),
        (
            ("200 OK", r#"{"access_token":"t0ken-1"}"#.into()),
            &["not a bearer token"],
        ),
        (
            ("200 OK", r#"{"access_token":"t0ken-1","token_type":"mac"}"#.into()),
            &["\"mac\""],
        ),
        (
            ("200 OK", r#"{"access_token":"t0ken\n1","token_type":"bearer"}"#.into()),
            &["HTTP cannot carry"],
        ),
        (("200 OK", big), &["more than 262144 bytes"]),
    ];
    for ((head, body), says) in cases {
        let shown: String = body.chars().take(80).collect();
        let (url, heard) = server(move |_, _| (head, body.clone())).await;
        let registry = Registry::new(RegistryOptions {
            urls: vec!["http://127.0.0.1:9".to_owned()],
            oauth: Some(options(&url)),
            ..RegistryOptions::default()
        })
        .unwrap();
        let error = registry.schema(1).await.unwrap_err();
        let text = error.to_string();
        assert_eq!(error.class(), Class::Transient, "{text}");
        assert!(
            text.starts_with(&format!("token endpoint {url}/token of the schema registry ")),
            "{text}"
        );
        for say in says {
            assert!(text.contains(say), "{head} {shown}: {text}");
        }
        assert!(!text.contains("s3cret") && !text.contains("t0ken"), "{text}");
        assert_eq!(heard.all().len(), 1, "{head}: asked once, and no redirect followed");
        assert_eq!(registry.stats().failed.load(std::sync::atomic::Ordering::Relaxed), 1);
    }
}
