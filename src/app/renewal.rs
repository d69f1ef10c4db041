//! Renews certificates and logins of the registry and its token endpoint while the process runs.
//!
//! A client reads them when it is created, and whoever renews them sends no signal. Without this, clients would use expired certificates or a rotated
//! login for ever. So their files are checked regularly, by content, because the files of a mounted Secret keep neither their time nor their inode.
//!
//! Invariant: if the new ones cannot be used, the old ones stay in use, and the next check tries again.

use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::services::renew_registry;
use crate::certificates;
use crate::config::{Config, RegistryAuth};
use crate::registry::Registry;

/// The interval between two checks of the files, the database's included.
pub(super) const EVERY: Duration = Duration::from_secs(60);

/// The files, and a hash of their last content; none if they could not be read.
pub(super) struct Credentials {
    files: Vec<PathBuf>,
    read: Option<u64>,
}

impl Credentials {
    /// The current files of the configuration; none if it names none. To be called before the registry's client is created.
    pub(super) fn of(config: &Config) -> Option<Credentials> {
        let tls = certificates::of_registry(config).flat_map(|tls| [&tls.ca, &tls.cert, &tls.key]);
        let login = match &config.registry.auth {
            // An empty password is valid: a service may take its token as the user name.
            Some(RegistryAuth::Basic { password, .. }) => password.file().filter(|file| !is_blank(file)),
            Some(RegistryAuth::Bearer(token)) => token.file(),
            Some(RegistryAuth::Oauth(oauth)) => oauth.client_secret.file(),
            None => None,
        };
        let files = tls.flatten().map(|file| file.value.clone());
        let files: Vec<_> = files.chain(login.map(Path::to_path_buf)).collect();
        let read = hash(&files).ok();
        (!files.is_empty()).then_some(Credentials { files, read })
    }

    /// Checks the files as long as it is polled.
    pub(super) async fn follow(mut self, every: Duration, config: Arc<Config>, registry: Arc<Registry>) {
        loop {
            tokio::time::sleep(every).await;
            match self.look(&config, &registry) {
                Ok(false) => {}
                Ok(true) => {
                    tracing::info!("the registry's certificates or login have changed: the new ones are in use")
                }
                Err(error) => {
                    tracing::error!(
                        "cannot renew the registry's certificates or login: {error}; the old ones stay in use"
                    )
                }
            }
        }
    }

    /// Reads the files again if their content has changed; returns whether it had.
    fn look(&mut self, config: &Config, registry: &Registry) -> Result<bool, String> {
        // A later change differs at the next check.
        let now = hash(&self.files)?;
        if self.read == Some(now) {
            return Ok(false);
        }
        renew_registry(config, registry)?;
        self.read = Some(now);
        Ok(true)
    }
}

fn is_blank(file: &Path) -> bool {
    std::fs::read(file).is_ok_and(|held| held.trim_ascii().is_empty())
}

fn hash(files: &[PathBuf]) -> Result<u64, String> {
    let mut hasher = DefaultHasher::new();
    certificates::hash(files, &mut hasher).map_err(|e| format!("cannot read {e}"))?;
    Ok(hasher.finish())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::certificates::tests::pem;
    use crate::config::load_str;

    fn config(registry: &str) -> Config {
        let toml = format!("[kafka]\nbrokers = \"127.0.0.1:1\"\n[registry]\n{registry}\n");
        load_str(vec![("t.toml".into(), toml)], std::iter::empty()).unwrap().0
    }

    /// The request that the registry's client sends. Login and certificates are read together, so the login shows whether both
    /// were.
    async fn request(listener: &TcpListener, registry: &Registry) -> String {
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.windows(4).any(|w| w == b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let empty = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]";
            stream.write_all(empty).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let (versions, request) = tokio::join!(registry.versions("clicks"), answer);
        versions.unwrap();
        request
    }

    #[tokio::test]
    async fn certificates_that_are_renewed_are_read_again_by_themselves() {
        let folder = std::env::temp_dir().join(format!("messina-renewal-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let (ca, token) = (folder.join("ca.pem"), folder.join("token"));
        std::fs::write(&ca, pem(1_900_000_000)).unwrap();
        std::fs::write(&token, "old").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = Arc::new(config(&format!(
            "url = \"http://{}\"\nbearer_token = {{ file = '{}' }}\ntls = {{ ca = '{}' }}",
            listener.local_addr().unwrap(),
            token.display(),
            ca.display()
        )));
        let mut credentials = Credentials::of(&config).unwrap();
        let registry = Arc::new(crate::app::registry(&config).unwrap());
        assert_eq!(credentials.look(&config, &registry), Ok(false));
        std::fs::write(&token, "new").unwrap();
        // Writing in place leaves such a file for a moment; each check tries it again.
        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        for (wrong, why) in [("", "is empty"), ("", "is empty"), (broken, "no certificates in")] {
            std::fs::write(&ca, wrong).unwrap();
            let error = credentials.look(&config, &registry).unwrap_err();
            assert!(error.contains(why) && error.contains("ca.pem"), "{error}");
        }
        assert!(request(&listener, &registry).await.contains("Bearer old"));
        std::fs::write(&ca, pem(1_950_000_000)).unwrap();
        let follow = credentials.follow(Duration::from_millis(1), config.clone(), registry.clone());
        let following = tokio::spawn(follow);
        let read = async { while !request(&listener, &registry).await.contains("Bearer new") {} };
        tokio::time::timeout(Duration::from_secs(30), read).await.unwrap();
        following.abort();
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_login_that_is_rotated_is_read_again_by_itself_though_there_are_no_certificates() {
        let token = std::env::temp_dir().join(format!("messina-rotated-token-{}", std::process::id()));
        std::fs::write(&token, "old").unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = config(&format!(
            "url = \"http://{}\"\nbearer_token = {{ file = '{}' }}",
            listener.local_addr().unwrap(),
            token.display()
        ));
        let mut credentials = Credentials::of(&config).unwrap();
        let registry = crate::app::registry(&config).unwrap();
        assert!(request(&listener, &registry).await.contains("Bearer old"));
        std::fs::write(&token, "new").unwrap();
        assert_eq!(credentials.look(&config, &registry), Ok(true));
        assert!(request(&listener, &registry).await.contains("Bearer new"));
        assert_eq!(credentials.look(&config, &registry), Ok(false));
        // Writing in place leaves the file empty for a moment.
        for empty in ["", "\n"] {
            std::fs::write(&token, empty).unwrap();
            let error = credentials.look(&config, &registry).unwrap_err();
            assert!(error.contains("is empty"), "{error}");
        }
        assert!(request(&listener, &registry).await.contains("Bearer new"));
        std::fs::remove_file(&token).unwrap();
    }

    #[test]
    fn those_of_the_token_endpoint_are_followed_too_and_where_there_are_none_nothing_is() {
        assert!(Credentials::of(&config("url = \"https://r\"")).is_none());
        let basic = "url = \"https://r\"\nusername = \"u\"\npassword = ";
        assert!(Credentials::of(&config(&format!("{basic}\"p\""))).is_none());
        let found = Credentials::of(&config(&format!("{basic}{{ file = \"/r/password\" }}")));
        assert_eq!(found.unwrap().files, [PathBuf::from("/r/password")]);
        let oauth = "oauth = { token_endpoint = \"https://t\", client_id = \"c\", client_secret = { file = \"/t/secret\" }, \
                     tls = { cert = \"/t/tls.crt\", key = \"/t/tls.key\" } }";
        let both = config(&format!("url = \"https://r\"\ntls = {{ ca = \"/r/ca.pem\" }}\n{oauth}"));
        let found = Credentials::of(&both).unwrap();
        let wanted = ["/r/ca.pem", "/t/tls.crt", "/t/tls.key", "/t/secret"].map(PathBuf::from);
        assert_eq!((found.files, found.read), (wanted.to_vec(), None));
    }
}
