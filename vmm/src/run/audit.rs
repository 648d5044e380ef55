//! `byway run --audit FILE`: who gave what to whom, how much went through it, and how it ended.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};
use std::{fs, io};

use byway_engine::interface::{Action, Admin, AdminError, AuditBooks, Reply};
use serde::Serialize;
use thiserror::Error;

/// Most records of each kind, living and past, of each VM's memory; the books say how many more there are.
const RECORDS_MAX: u32 = 65_536;

/// Why there is no report.
#[derive(Debug, Error)]
pub enum AuditError {
    /// The engine does not tell.
    #[error("the engine does not tell about {name}'s memory")]
    Engine {
        /// The VM.
        name: String,
        /// Why.
        source: AdminError,
    },
    /// The file cannot be written.
    #[error("cannot write the audit to {}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The books of all VMs at one time.
#[derive(Debug, Serialize)]
pub struct AuditReport {
    /// When it was taken, in milliseconds since 1970 on the host's clock.
    pub taken_ms: u64,
    /// By name of the VM that owns the memory.
    pub domains: BTreeMap<String, AuditBooks>,
}

impl AuditReport {
    /// Asks the engine about the memory of each of `names`.
    ///
    /// # Errors
    /// When the engine has no such domain.
    pub fn take(
        engine: &dyn Admin,
        names: impl IntoIterator<Item = String>,
    ) -> Result<Self, AuditError> {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        let taken_ms = since.map_or(0, |since| since.as_millis() as u64);
        let mut domains = BTreeMap::new();
        for name in names {
            let asked = engine.act(Action::Audit {
                name: name.clone(),
                limit: RECORDS_MAX,
            });
            match asked {
                Ok(Reply::Audit(books)) => domains.insert(name, books),
                // An engine in another process may answer with anything.
                Ok(_) => domains.insert(name, AuditBooks::default()),
                Err(source) => return Err(AuditError::Engine { name, source }),
            };
        }
        Ok(Self { taken_ms, domains })
    }
}

/// Where reports go.
#[derive(Debug, Clone)]
pub struct AuditFile(pub PathBuf);

impl AuditFile {
    /// Replaces the file by a report as of now. Whoever reads meanwhile has the former one, whole.
    ///
    /// # Errors
    /// When the engine does not tell or the file cannot be written; the former report stays.
    pub fn write(
        &self,
        engine: &dyn Admin,
        names: impl IntoIterator<Item = String>,
    ) -> Result<(), AuditError> {
        let report = AuditReport::take(engine, names)?;
        self.replace(&report).map_err(|source| AuditError::File {
            path: self.0.clone(),
            source,
        })
    }

    fn replace(&self, report: &AuditReport) -> io::Result<()> {
        let mut text = serde_json::to_string_pretty(report)?;
        text.push('\n');
        // Beside it, since a rename does not cross file systems.
        let mut name = self.0.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let fresh = self.0.with_file_name(name);
        fs::write(&fresh, text)?;
        fs::rename(&fresh, &self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use byway_engine::{Engine, EngineConfig};

    #[test]
    fn a_report_replaces_the_former_one_and_leaves_nothing_beside_it() {
        let engine = Engine::new(EngineConfig::default()).unwrap();
        let create = Action::CreateDomain {
            name: "alice".to_owned(),
            quotas: Default::default(),
        };
        engine.act(create).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = AuditFile(folder.path().join("audit.json"));
        for _ in 0..2 {
            file.write(&engine, ["alice".to_owned()]).unwrap();
            let text = fs::read_to_string(&file.0).unwrap();
            let json: serde_json::Value = serde_json::from_str(&text).unwrap();
            assert_eq!(json["domains"]["alice"]["live_total"], 0);
            assert!(json["taken_ms"].as_u64().unwrap() > 0);
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        let error = file.write(&engine, ["bob".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("bob"), "{error}");
        let nowhere = AuditFile(folder.path().join("no/audit.json"));
        let error = nowhere.write(&engine, []).unwrap_err();
        assert!(error.to_string().contains("no/audit.json"), "{error}");
    }
}
