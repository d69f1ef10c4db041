//! Checks what a configuration says about its environment: files, secrets, addresses, memory.

use super::super::{
    Config, Property, PropertyValue, RegistryAuth, Secret, SinkSchema, Size, Span, Spanned, StepKind, Tls, codes,
};
use super::Report;
use crate::avro::Schema;
use crate::config::Diagnostic;
use reqwest::header::HeaderValue;
use sentry::types::Dsn;
use std::path::PathBuf;

/// With less memory, not even the queues of one consumer and one producer fit.
const LEAST_MEMORY: Size = Size(16 << 20);

/// With less than this per pipeline, there is hardly room for the queues of its clients and its records in flight.
const LEAST_SHARE: Size = Size(1 << 20);

pub(super) fn check(config: &Config, report: &mut Report<'_>) {
    if let (Some(store), Some(scylla)) = (&config.store, &config.scylla) {
        let finding = Diagnostic::error(codes::CONFLICT, "both `store` and `[scylla]` are given");
        report.findings.push(
            finding
                .at(report.sources, store.span, "the embedded store")
                .with(report.sources, scylla.span, "the database")
                .help("keep one of them"),
        );
    }
    if let Some((of_file, used)) = report.sources.replaced_listen {
        let place = |span| report.sources.place(span, String::new());
        let (file, variable) = (place(of_file), place(used).file);
        let message = format!(
            "`http.listen` of {}:{} is not used: {variable} overrides it",
            file.file, file.line
        );
        report.findings.push(
            Diagnostic::warning(codes::CONFLICT, message)
                .at(report.sources, of_file, "not used")
                .with(report.sources, used, "used")
                .help("environment variables override files, and the image sets this one: set the address there, or remove it from the file"),
        );
    }
    if let Some(scylla) = &config.scylla
        && scylla.username.is_some() != scylla.password.is_some()
    {
        let message = "`username` and `password` come together in `scylla`".to_owned();
        report.error(
            codes::CONFLICT,
            message,
            scylla.span,
            "one of them is absent",
            "add the other, or remove both",
        );
    }
    if let Some(scylla) = &config.scylla
        && scylla.datacenter.is_none()
    {
        if let Some(rack) = &scylla.rack {
            let message = "`rack` needs its `datacenter` in `scylla`".to_owned();
            let help = "add datacenter = \"NAME\", or remove it";
            report.error(codes::CONFLICT, message, rack.span, "in which datacenter?", help);
        }
        if scylla.failover {
            let message = "`failover` without `datacenter` in `scylla` changes nothing".to_owned();
            let help = "add datacenter = \"NAME\", the one to prefer; or remove it: all nodes are asked alike";
            report.warning(codes::CONFLICT, message, scylla.span, "none is preferred", help);
        }
    }
    let oauth = match &config.registry.auth {
        Some(RegistryAuth::Oauth(oauth)) => Some(oauth),
        Some(RegistryAuth::Basic { .. } | RegistryAuth::Bearer(_)) | None => None,
    };
    let plain = |url: &Spanned<String>| url.starts_with("http://");
    if let Some(tls) = &config.registry.tls
        && config.registry.urls.iter().all(plain)
        && oauth.is_none_or(|oauth| plain(&oauth.token_endpoint))
    {
        let message = "`tls` in `registry` changes nothing: the address is http://".to_owned();
        let help = "write https://, or remove `tls`";
        report.warning(codes::CONFLICT, message, tls.span, "only for https://", help);
    }
    for tls in config
        .registry
        .tls
        .iter()
        .chain(oauth.and_then(|oauth| oauth.tls.as_ref()))
        .chain(config.scylla.iter().filter_map(|scylla| scylla.tls.as_ref()))
    {
        tls_files(tls, report);
    }
    for sink in config.pipelines.values().filter_map(|pipeline| pipeline.sink.as_ref()) {
        match &sink.schema {
            Some(SinkSchema::Inline(json)) => schema(json, json.span, report),
            Some(SinkSchema::File(path)) => match std::fs::read_to_string(&path.value) {
                Ok(text) => schema(&text, path.span, report),
                Err(error) => unreadable(path, &error, report),
            },
            // Only the registry has it.
            Some(SinkSchema::Subject(_)) | None => {}
        }
    }
    for secret in secrets(config) {
        match secret.reveal() {
            Err(error) => {
                let message = format!("a secret cannot be read: {error}");
                let help = "make it available to this process, or point to where it is";
                report.error(codes::SECRET, message, secret.span(), "", help);
            }
            Ok(value) if value.trim().is_empty() => {
                let help = "look at what sets the variable, or writes the file";
                report.warning(codes::SECRET, "a secret is empty".to_owned(), secret.span(), "", help);
            }
            Ok(_) => {}
        }
    }
    if let Some(mongo) = &config.mongo
        && mongo.uri.reveal().is_ok_and(|uri| !uri.starts_with("mongodb://"))
    {
        let help = "it begins with mongodb://, and names all hosts: no DNS is asked for them, as mongodb+srv:// would";
        let message = "`mongo.uri` is not a connection string".to_owned();
        report.error(codes::SECRET, message, mongo.uri.span(), "", help);
    }
    if let Some(sentry) = &config.sentry
        && sentry.dsn.reveal().is_ok_and(|dsn| dsn.parse::<Dsn>().is_err())
    {
        let help = "copy it from Sentry's settings of the project; without the section nothing is reported";
        let message = "`sentry.dsn` is not a DSN".to_owned();
        report.error(codes::SECRET, message, sentry.dsn.span(), "", help);
    }
    for (name, secret) in config.tracing.iter().flat_map(|tracing| &tracing.headers) {
        if secret
            .reveal()
            .is_ok_and(|value| HeaderValue::from_str(&value).is_err())
        {
            let message = format!("the value of header `{name}` is not valid");
            let help = "it is one line of plain text";
            report.error(codes::SECRET, message, secret.span(), "", help);
        }
    }
    for at in &config.registry.urls {
        let help = [
            "write url = \"http://registry:8081\"",
            "use `username` and `password`, which are never printed",
        ];
        url(at, "registry", help, report);
    }
    if let Some(oauth) = oauth {
        let help = [
            "write token_endpoint = \"https://login.example.com/oauth2/token\"",
            "use `client_id` and `client_secret`, which is never printed",
        ];
        url(&oauth.token_endpoint, "token endpoint", help, report);
    }
    if let Some(tracing) = &config.tracing {
        let help = [
            "write otlp = \"http://127.0.0.1:4318\"",
            "use `headers`, whose values are never printed",
        ];
        url(&tracing.otlp, "collector", help, report);
    }
    memory(config, report);
}

fn tls_files(tls: &Tls, report: &mut Report<'_>) {
    if tls.cert.is_some() != tls.key.is_some() {
        let message = "`cert` and `key` come together".to_owned();
        report.error(
            codes::CONFLICT,
            message,
            tls.span,
            "one of them is absent",
            "add the other, or remove both",
        );
    }
    for path in [&tls.ca, &tls.cert, &tls.key].into_iter().flatten() {
        file(path, report);
    }
}

fn file(path: &Spanned<PathBuf>, report: &mut Report<'_>) {
    if let Err(error) = std::fs::File::open(&path.value) {
        unreadable(path, &error, report);
    }
}

fn unreadable(path: &Spanned<PathBuf>, error: &std::io::Error, report: &mut Report<'_>) {
    let message = format!("cannot read `{}`: {error}", path.value.display());
    let help = "check the path; a relative path starts at the working directory";
    report.error(codes::MISSING_FILE, message, path.span, "", help);
}

/// An output schema that is not Avro: each start would say the same.
fn schema(json: &str, span: Span, report: &mut Report<'_>) {
    if let Err(error) = Schema::parse(json) {
        let message = format!("the output schema: {error}");
        let help =
            "write an Avro schema as JSON, { file = \"PATH\" } of one, or { subject = \"NAME\" } of the registry";
        report.error(codes::TYPES, message, span, "", help);
    }
}

/// All secrets of the configuration, literal or by reference.
fn secrets(config: &Config) -> Vec<&Secret> {
    fn of(properties: &[Property]) -> impl Iterator<Item = &Secret> {
        properties.iter().filter_map(|property| match &property.value {
            PropertyValue::Secret(secret) => Some(secret),
            PropertyValue::Plain(_) => None,
        })
    }
    let kafka = &config.kafka;
    let mut secrets: Vec<&Secret> = of(&kafka.properties).collect();
    secrets.extend(of(&kafka.consumer_properties).chain(of(&kafka.producer_properties)));
    secrets.extend(match &config.registry.auth {
        Some(RegistryAuth::Basic { password: secret, .. } | RegistryAuth::Bearer(secret)) => Some(secret),
        Some(RegistryAuth::Oauth(oauth)) => Some(&oauth.client_secret),
        None => None,
    });
    secrets.extend(config.scylla.as_ref().and_then(|scylla| scylla.password.as_ref()));
    secrets.extend(config.mongo.as_ref().map(|mongo| &mongo.uri));
    secrets.extend(config.sentry.as_ref().map(|sentry| &sentry.dsn));
    let headers = config.tracing.iter().flat_map(|tracing| &tracing.headers);
    secrets.extend(headers.map(|(_, secret)| secret));
    for pipeline in config.pipelines.values() {
        secrets.extend(of(&pipeline.source.properties));
        secrets.extend(pipeline.sink.iter().flat_map(|sink| of(&sink.properties)));
    }
    secrets
}

/// Reports what is not a URL, or contains a login, with a remedy for each.
fn url(url: &Spanned<String>, of: &str, [form, login]: [&str; 2], report: &mut Report<'_>) {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let authority = rest.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
    match authority {
        None | Some("") => {
            let message = format!("the {of}'s URL is not valid");
            report.error(
                codes::URL,
                message,
                url.span,
                "expected http:// or https:// and a host",
                form,
            );
        }
        Some(authority) if authority.contains('@') => {
            let message = format!("the {of}'s URL carries a password");
            report.error(codes::URL, message, url.span, "user information", login);
        }
        Some(_) => {}
    }
}

fn memory(config: &Config, report: &mut Report<'_>) {
    let memory = config.limits.memory;
    if memory.value < LEAST_MEMORY {
        let message = format!("a budget of {} cannot hold one consumer and one producer", memory.value);
        report.error(
            codes::MEMORY,
            message,
            memory.span,
            format!("expected {LEAST_MEMORY} or more"),
            "256MiB is the default",
        );
    }
    let steps = config.pipelines.values().flat_map(|pipeline| &pipeline.steps);
    let caches = steps.filter_map(|step| match &step.kind {
        StepKind::Lookup(lookup) => lookup.cache.as_ref().map(|cache| cache.max_bytes),
        _ => None,
    });
    let references = config.references.values().map(|reference| reference.max_bytes);
    // Underlines the last of them rather than `memory`, which may be a default that nobody wrote.
    let (mut total, mut last) = (Size(0), memory.span);
    for size in caches.chain(references) {
        last = size.span;
        let before = total;
        total = Size(total.0.saturating_add(size.0));
        // Reported once, at the cache or reference that no longer fits.
        if before < memory.value && total >= memory.value {
            let message = format!(
                "caches and references of {total} leave nothing of the budget of {}",
                memory.value
            );
            let help = "make them smaller, or `memory` in [limits] larger: it also holds queues and events in flight";
            report.error(codes::MEMORY, message, size.span, "no longer fits", help);
        }
    }
    // No warning for what is already an error.
    let (left, pipelines) = (memory.value.0.saturating_sub(total.0), config.pipelines.len().max(1));
    let share = left / pipelines as u64;
    if memory.value >= LEAST_MEMORY && left > 0 && share < LEAST_SHARE.0 {
        let message = format!(
            "the budget of {} leaves less than {LEAST_SHARE} for each pipeline, beside caches and references of {total}",
            memory.value
        );
        let help = "make `memory` in [limits] larger, or these smaller: the share holds queues and events in flight";
        let label = format!("{} KiB are left for each", share >> 10);
        report.warning(codes::MEMORY, message, last, label, help);
    }
}
