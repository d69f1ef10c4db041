//! Avro names: which are valid, how name and namespace form a full name, and which known name was probably meant.

/// The primitive types, whose names no other type may have.
pub(crate) const PRIMITIVES: [&str; 8] = ["null", "boolean", "int", "long", "float", "double", "bytes", "string"];

/// Whether `name` is a valid name without a namespace. The specification allows `[A-Za-z_][A-Za-z0-9_]*`. Letters and
/// digits of other scripts are accepted too, because Java's parser can be set to accept them.
pub(crate) fn is_name(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c.is_alphabetic() || c == '_') && chars.all(|c| c.is_alphanumeric() || c == '_')
}

/// Whether `name` is a valid name, with or without a namespace. Java checks nothing in a namespace but its dots, and namespaces of Debezium's
/// topics contain hyphens.
pub(crate) fn is_full_name(name: &str) -> bool {
    let (space, last) = name.rsplit_once('.').unwrap_or(("_", name));
    is_name(last)
        && space
            .split('.')
            .all(|part| !part.is_empty() && !part.contains(char::is_whitespace))
}

/// Whether `name` follows the specification strictly, as every name that Messina itself writes does.
pub(crate) fn is_plain_name(name: &str) -> bool {
    is_name(name) && name.is_ascii()
}

/// Full name and namespace of a definition. A dotted name is already full; any other takes `namespace`, or else that of
/// the enclosing type.
pub(crate) fn full_name(name: &str, namespace: Option<&str>, enclosing: &str) -> (String, String) {
    match name.rfind('.') {
        Some(dot) => (name.trim_start_matches('.').to_owned(), name[..dot].to_owned()),
        None => {
            let namespace = namespace.unwrap_or(enclosing);
            let full = if namespace.is_empty() {
                name.to_owned()
            } else {
                format!("{namespace}.{name}")
            };
            (full, namespace.to_owned())
        }
    }
}

/// The part after the last dot.
pub(crate) fn short_name(full: &str) -> &str {
    full.rsplit('.').next().unwrap_or(full)
}

/// Longer names, in bytes, are not compared.
const LONGEST: usize = 256;

/// The one of `names` that is nearest to `wanted` by edit distance, if it is near enough to be a typo.
pub(crate) fn nearest<'a>(wanted: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wanted.chars().count() / 3).max(1);
    names
        .into_iter()
        // Long names take too long to compare, and are not typos.
        .filter(|name| wanted.len() <= LONGEST && name.len() <= LONGEST)
        .map(|name| (distance(wanted, name), name))
        .filter(|(distance, _)| *distance <= limit)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Levenshtein distance without regard to case and underscores, which people often get wrong in field names.
fn distance(a: &str, b: &str) -> usize {
    let fold = |s: &str| {
        s.chars()
            .filter(|c| *c != '_')
            .flat_map(char::to_lowercase)
            .collect::<Vec<_>>()
    };
    let (a, b) = (fold(a), fold(b));
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, cb) in b.iter().enumerate() {
            let changed = diagonal + usize::from(ca != cb);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_names_follow_the_specification() {
        assert_eq!(full_name("A", None, "x.y"), ("x.y.A".into(), "x.y".into()));
        assert_eq!(full_name("A", Some("z"), "x.y"), ("z.A".into(), "z".into()));
        assert_eq!(full_name("A", Some(""), "x.y"), ("A".into(), "".into()));
        assert_eq!(full_name("p.q.A", Some("z"), "x.y"), ("p.q.A".into(), "p.q".into()));
    }

    #[test]
    fn names_have_a_shape() {
        assert!(is_name("a_1") && is_name("_") && is_name("größe"));
        assert!(!is_name("") && !is_name("1a") && !is_name("a-b") && !is_name("a b"));
        assert!(!is_plain_name("größe"));
    }

    #[test]
    fn a_namespace_is_what_java_takes_for_one() {
        for name in [
            "a",
            "a.b",
            "my-server.inventory.Envelope",
            "com.acme.Outer$.Inner",
            "0.a",
        ] {
            assert!(is_full_name(name), "{name}");
        }
        for name in ["", "a.", ".a", "a..b", "a b.c", "a.b-c", "a.1"] {
            assert!(!is_full_name(name), "{name}");
        }
    }

    #[test]
    fn a_slip_finds_its_name() {
        assert_eq!(nearest("userid", ["user_id", "kind"]), Some("user_id"));
        assert_eq!(nearest("partnerId", ["partner_id", "kind"]), Some("partner_id"));
        assert_eq!(nearest("amuont", ["amount", "kind"]), Some("amount"));
        assert_eq!(nearest("zebra", ["amount", "kind"]), None);
        let endless = "x".repeat(1 << 20);
        assert_eq!(nearest(&endless, [&*endless]), None, "it would take hours");
    }
}
