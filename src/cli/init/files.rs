//! The files of `messina init`: the pipeline and, with `--test`, the case and the schema.

use std::path::{Path, PathBuf};

use super::{Init, usage};
use crate::avro::Schema;
use crate::cli::trouble::Trouble;

/// The files that are written.
pub struct Files {
    pub to_stdout: bool,
    pub config: PathBuf,
    pub case: Option<PathBuf>,
    /// `None` if `--schema` names a file, which is used as it is.
    pub schema: Option<PathBuf>,
    /// The schema's name in the case.
    pub schema_name: String,
    /// The configuration files' names in the case, the new one last.
    pub configs: Vec<String>,
}

impl Files {
    pub fn new(args: &Init, out: &Path) -> Result<Files, Trouble> {
        let to_stdout = out == Path::new("-");
        if to_stdout && args.test {
            return Err(usage(
                "--test writes files beside the pipeline's own: give it one with --out FILE",
            ));
        }
        let config = if to_stdout {
            PathBuf::from("pipeline.toml")
        } else {
            out.to_owned()
        };
        let beside = |end: &str| config.with_extension(end);
        let own = beside("avsc");
        let given = args.schema.as_deref().filter(|given| same_folder(given, &config));
        let name = |path: &Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut configs: Vec<String> = Vec::new();
        for other in &args.config {
            configs.push(if same_folder(other, &config) {
                name(other)
            } else {
                let path = std::fs::canonicalize(other);
                path.map_err(|e| usage(&format!("cannot read {}: {e}", other.display())))?
                    .display()
                    .to_string()
            });
        }
        configs.push(name(&config));
        Ok(Files {
            to_stdout,
            case: args.test.then(|| beside("test.toml")),
            schema_name: name(given.unwrap_or(&own)),
            schema: (args.test && given.is_none()).then_some(own),
            config,
            configs,
        })
    }

    /// All or nothing: if one file exists, none is written.
    pub fn refuse_to_overwrite(&self, force: bool) -> Result<(), Trouble> {
        let there: Vec<String> = self
            .all()
            // A dangling link counts as existing: writing would create the file that it points to.
            .filter(|path| path.symlink_metadata().is_ok())
            .map(|path| path.display().to_string())
            .collect();
        if force || there.is_empty() {
            return Ok(());
        }
        let (is, it) = if there.len() == 1 {
            ("is", "it")
        } else {
            ("are", "them")
        };
        Err(usage(&format!(
            "{} {is} there already: --force writes over {it}, --out FILE and --name NAME make another pipeline",
            there.join(", ")
        )))
    }

    /// Writes them.
    pub fn write(&self, text: &str, schema: &Schema, case: Option<&str>) -> anyhow::Result<()> {
        save(&self.config, text)?;
        if let Some(path) = &self.schema {
            save(path, &format!("{}\n", pretty(schema.json())))?;
        }
        if let (Some(path), Some(case)) = (&self.case, case) {
            save(path, case)?;
        }
        Ok(())
    }

    /// Removes the files again.
    pub fn remove(&self) {
        for path in self.all() {
            // A file that was not written does not exist.
            let _ = std::fs::remove_file(path);
        }
    }

    fn all(&self) -> impl Iterator<Item = &PathBuf> {
        let all = [Some(&self.config), self.case.as_ref(), self.schema.as_ref()];
        all.into_iter().flatten()
    }
}

fn same_folder(one: &Path, other: &Path) -> bool {
    let folder = |path: &Path| {
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        std::fs::canonicalize(parent.unwrap_or(Path::new("."))).ok()
    };
    folder(one).is_some() && folder(one) == folder(other)
}

pub fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    std::fs::write(path, text).map_err(|e| usage(&format!("cannot write {}: {e}", path.display())).into())
}

fn pretty(json: &str) -> String {
    let value: Result<serde_json::Value, _> = serde_json::from_str(json);
    value
        .ok()
        .and_then(|value| serde_json::to_string_pretty(&value).ok())
        .unwrap_or_else(|| json.to_owned())
}
