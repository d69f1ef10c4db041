//! Asks the server what a role may do with a table.
//!
//! A server prepares statements for everybody, and refuses them only when the first record executes them. Invariant: if a server does not answer (it
//! has no authorization, or does not let the role ask), nothing more is asked and nothing concluded.

use ::scylla::value::{CqlValue, Row};

use super::ScyllaStore;

/// The permissions on a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// To read it.
    Select,
    /// To write to it.
    Modify,
}

impl Permission {
    /// CQL's name.
    pub fn name(self) -> &'static str {
        match self {
            Permission::Select => "SELECT",
            Permission::Modify => "MODIFY",
        }
    }
}

impl ScyllaStore {
    /// Whether it is known that the role lacks a permission on a table (`keyspace.table`, as the server spells it). Permissions on the keyspace and on
    /// all keyspaces count too.
    pub async fn lacks(&self, role: &str, table: &str, permission: Permission) -> bool {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let Some((keyspace, name)) = table.split_once('.') else {
            return false;
        };
        let role = quoted(role);
        // A superuser may do everything, but no permissions are listed for it.
        let roles = self.told(&format!("LIST ROLES OF {role}"), "super").await;
        let is_super = |value: &Option<CqlValue>| matches!(value, Some(CqlValue::Boolean(true)));
        if roles.is_none_or(|roles| roles.iter().any(is_super)) {
            return false;
        }
        let (keyspace, name) = (quoted(keyspace), quoted(name));
        let list = format!("LIST ALL PERMISSIONS ON TABLE {keyspace}.{name} OF {role}");
        let Some(permissions) = self.told(&list, "permission").await else {
            return false;
        };
        let is_it = |value: &Option<CqlValue>| {
            let text = value.as_ref().and_then(CqlValue::as_text);
            text.is_some_and(|text| text == permission.name())
        };
        !permissions.iter().any(is_it)
    }

    /// One column of an answer; `None` if there is no answer or no such column.
    async fn told(&self, cql: &str, column: &str) -> Option<Vec<Option<CqlValue>>> {
        let rows = self
            .session()
            .query_unpaged(cql, ())
            .await
            .ok()?
            .into_rows_result()
            .ok()?;
        let column = rows.column_specs().iter().position(|spec| spec.name() == column)?;
        let rows = rows.rows::<Row>().ok()?;
        rows.map(|row| row.ok()?.columns.into_iter().nth(column)).collect()
    }
}
