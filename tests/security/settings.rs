//! The configuration of a secure run, in parts that a test can make wrong one by one.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use mongodb::bson::doc;

use crate::support::Bench;
use crate::support::tls_proxy::{Authorization, Gateway, Issuer, serve, serve_messages, serve_tokens};

/// Passwords and tokens of these tests; none of them may ever be shown.
pub const KAFKA_PASSWORD: &str = "test-password";
pub const DATABASE_PASSWORD: &str = "d4tabase-s3cret";
pub const MONGO_PASSWORD: &str = "test-password";
pub const REGISTRY_PASSWORD: &str = "r3gistry-s3cret";
pub const REGISTRY_TOKEN: &str = "t0ken-s3cret";
pub const OAUTH_SECRET: &str = "0auth-s3cret";
/// Prefix of all tokens that the authorization server issues.
pub const ISSUED_TOKEN: &str = "issued-t0ken-";
/// `messina-client:0auth-s3cret` in Base64.
pub const OAUTH_LOGIN: &str = "Basic bWVzc2luYS1jbGllbnQ6MGF1dGgtczNjcmV0";
/// `messina:r3gistry-s3cret` in Base64.
pub const BASIC: &str = "Basic bWVzc2luYTpyM2dpc3RyeS1zM2NyZXQ=";
const USER: &str = "messina";

/// How to log in to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kafka {
    /// User and password, with this mechanism.
    Scram(&'static str),
    /// An unsecured token, which development clusters accept.
    Token,
    /// The client certificate.
    Certificate,
}

/// How to log in to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    /// User and password.
    Basic,
    /// A bearer token, and the client certificate.
    Bearer,
    /// A bearer token that is fetched with client credentials.
    Oauth,
}

/// TLS files: what the client trusts, and what it presents.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Trusted authorities.
    pub ca: PathBuf,
    /// The client's certificate and key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// All settings of a secure run.
#[derive(Clone)]
pub struct Settings {
    pub kafka: Kafka,
    pub brokers: String,
    pub kafka_user: String,
    pub kafka_password: String,
    pub kafka_tls: Tls,
    pub nodes: String,
    pub database_user: String,
    pub database_password: String,
    pub database_tls: Tls,
    /// Host and port.
    pub mongo: String,
    pub mongo_password: String,
    pub mongo_tls: Tls,
    pub registry: Registry,
    pub registry_url: String,
    pub registry_secret: String,
    pub registry_tls: Tls,
    pub token_endpoint: String,
    pub token_scope: String,
    pub token_ca: PathBuf,
    /// Knows how many requests each issued token has left.
    pub issuer: Arc<Issuer>,
    mtls_brokers: String,
    /// Where a client certificate is required.
    mtls_mongo: String,
    gateways: [String; 3],
}

/// The services that these tests run. The brokers ask for certificates, and use ACLs where there are any.
const SERVICES: [&str; 4] = ["kafka-secure", "cassandra-tls", "registry", "mongo"];

/// Finds the services, and creates the gateways in front of the registry, the database user, and a document.
pub fn find(test: &str) -> Option<(Bench, Settings)> {
    find_on(test, false)
}

/// The same while no other test runs, for a test that breaks the services.
pub fn find_alone(test: &str) -> Option<(Bench, Settings)> {
    find_on(test, true)
}

fn find_on(test: &str, alone: bool) -> Option<(Bench, Settings)> {
    let properties = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates.properties");
    let text = "listener.name.ssl.ssl.client.auth=required\n\
        authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
        super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n";
    // Replaced atomically: the test beside this one may be starting the brokers with this file.
    let beside = properties.with_extension(test);
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(&beside, &properties).unwrap();
    let extra = [("KAFKA_EXTRA_PROPERTIES", properties.to_str().unwrap())];
    let bench = if alone {
        Bench::find_with(test, &SERVICES, &extra)?
    } else {
        Bench::find_beside(test, &SERVICES, &extra)?
    };
    let own = bench.own();
    let tls = own.tls();
    let database = bench.database();
    database.run(
        &bench,
        &format!("CREATE ROLE IF NOT EXISTS {USER} WITH PASSWORD = '{DATABASE_PASSWORD}' AND LOGIN = true AND SUPERUSER = true"),
    );
    let uri = own.get("MONGO_URI");
    let insert = async {
        let client = mongodb::Client::with_uri_str(&uri).await.unwrap();
        let people = client.database(&bench.keyspace).collection("people");
        people.insert_one(doc! { "_id": "k00", "name": "Ada" }).await.unwrap();
        client.shutdown().await;
    };
    bench.wait(insert);
    let mongo = own.get("MONGO_TLS_URI");
    let (_, mongo) = mongo.split_once('@').unwrap();
    let (mongo, _) = mongo.split_once('/').unwrap();
    let (_, plain_mongo) = uri.split_once('@').unwrap();
    let (plain_mongo, _) = plain_mongo.split_once('/').unwrap();
    let plain = bench.registry.url.strip_prefix("http://").unwrap();
    let (server, path) = plain.split_once('/').unwrap();
    // Each token is refused after a few requests, so that the next one must be fetched.
    let issuer = Arc::new(Issuer {
        login: OAUTH_LOGIN.to_owned(),
        scope: "schemas".to_owned(),
        prefix: ISSUED_TOKEN.to_owned(),
        uses: 2,
        issued: Mutex::default(),
    });
    let gateways = [
        (Authorization::Fixed(BASIC.to_owned()), false),
        (Authorization::Fixed(format!("Bearer {REGISTRY_TOKEN}")), true),
        (Authorization::Issued(issuer.clone()), false),
    ]
    .map(|(authorization, client_certificate)| {
        let gateway = Gateway {
            authorization,
            client_certificate,
        };
        format!("https://localhost:{}/{path}", serve(gateway, server, &tls).port())
    });
    let token_endpoint = format!("https://localhost:{}/token", serve_tokens(issuer.clone(), &tls).port());
    let right = Tls {
        ca: tls.join("ca.pem"),
        client: Some((tls.join("client.crt"), tls.join("client.key"))),
    };
    let settings = Settings {
        kafka: Kafka::Scram("SCRAM-SHA-512"),
        brokers: own.get("KAFKA_SECURE_BROKERS"),
        kafka_user: USER.to_owned(),
        kafka_password: KAFKA_PASSWORD.to_owned(),
        kafka_tls: right.clone(),
        nodes: own.get("SCYLLA_TLS_NODES"),
        database_user: USER.to_owned(),
        database_password: DATABASE_PASSWORD.to_owned(),
        database_tls: right.clone(),
        mongo: mongo.to_owned(),
        mongo_password: MONGO_PASSWORD.to_owned(),
        mongo_tls: Tls {
            client: None,
            ..right.clone()
        },
        registry: Registry::Basic,
        registry_url: gateways[0].clone(),
        registry_secret: REGISTRY_PASSWORD.to_owned(),
        registry_tls: right,
        token_endpoint,
        token_scope: "schemas".to_owned(),
        token_ca: tls.join("ca.pem"),
        issuer,
        mtls_brokers: own.get("KAFKA_MTLS_BROKERS"),
        mtls_mongo: format!("localhost:{}", serve_messages(plain_mongo, &tls).port()),
        gateways,
    };
    Some((bench, settings))
}

impl Settings {
    /// With another login to the brokers.
    pub fn kafka(mut self, kafka: Kafka) -> Settings {
        if kafka == Kafka::Certificate {
            self.brokers.clone_from(&self.mtls_brokers);
        }
        self.kafka = kafka;
        self
    }

    /// With a token and a client certificate for the registry.
    pub fn bearer(mut self) -> Settings {
        self.registry = Registry::Bearer;
        self.registry_url.clone_from(&self.gateways[1]);
        REGISTRY_TOKEN.clone_into(&mut self.registry_secret);
        self
    }

    /// With the client certificate for MongoDB, too.
    pub fn mongo_certificate(mut self) -> Settings {
        self.mongo.clone_from(&self.mtls_mongo);
        self.mongo_tls = self.database_tls.clone();
        self
    }

    /// With fetched tokens for the registry.
    pub fn oauth(mut self) -> Settings {
        self.registry = Registry::Oauth;
        self.registry_url.clone_from(&self.gateways[2]);
        OAUTH_SECRET.clone_into(&mut self.registry_secret);
        self
    }

    /// Writes an overlay on the pipelines' configuration; secrets are in files beside it.
    pub fn file(&self, bench: &Bench, name: &str) -> PathBuf {
        let secret = |what: &str, value: &str| {
            let path = bench.file(&format!("{name}-{what}.secret"), &format!("{value}\n"));
            format!("{{ file = \"{}\" }}", path.display())
        };
        let mut kafka = vec![("ssl.ca.location", quoted(&self.kafka_tls.ca))];
        match self.kafka {
            Kafka::Scram(mechanism) => kafka.extend([
                ("security.protocol", "\"sasl_ssl\"".to_owned()),
                ("sasl.mechanism", format!("\"{mechanism}\"")),
                ("sasl.username", format!("\"{}\"", self.kafka_user)),
                ("sasl.password", secret("kafka", &self.kafka_password)),
            ]),
            Kafka::Token => kafka.extend([
                ("security.protocol", "\"sasl_ssl\"".to_owned()),
                ("sasl.mechanism", "\"OAUTHBEARER\"".to_owned()),
                ("enable.sasl.oauthbearer.unsecure.jwt", "true".to_owned()),
                ("sasl.oauthbearer.config", "\"principal=messina\"".to_owned()),
            ]),
            Kafka::Certificate => {
                kafka.push(("security.protocol", "\"ssl\"".to_owned()));
                if let Some((cert, key)) = &self.kafka_tls.client {
                    kafka.extend([
                        ("ssl.certificate.location", quoted(cert)),
                        ("ssl.key.location", quoted(key)),
                    ]);
                }
            }
        }
        let kafka: Vec<String> = kafka
            .iter()
            .map(|(name, value)| format!("\"{name}\" = {value}"))
            .collect();
        let login = match self.registry {
            Registry::Basic => format!(
                "username = \"{USER}\"\npassword = {}",
                secret("registry", &self.registry_secret)
            ),
            Registry::Bearer => format!("bearer_token = {}", secret("registry", &self.registry_secret)),
            Registry::Oauth => format!(
                "oauth = {{ token_endpoint = \"{}\", client_id = \"messina-client\", client_secret = {}, scope = \"{}\", \
                 tls = {{ ca = {} }} }}",
                self.token_endpoint,
                secret("registry", &self.registry_secret),
                self.token_scope,
                quoted(&self.token_ca)
            ),
        };
        let registry_tls = match self.registry {
            Registry::Basic | Registry::Oauth => Tls {
                client: None,
                ..self.registry_tls.clone()
            },
            Registry::Bearer => self.registry_tls.clone(),
        };
        // The driver needs both in one file.
        let certificate = self.mongo_tls.client.as_ref().map_or(String::new(), |(cert, key)| {
            let pem = [cert, key].map(|path| std::fs::read_to_string(path).unwrap());
            let path = bench.file(&format!("{name}-mongo.pem"), &pem.concat());
            format!("&tlsCertificateKeyFile={}", path.display())
        });
        let mongo = format!(
            "mongodb://{USER}:{}@{}/?directConnection=true&tls=true&tlsCAFile={}{certificate}",
            self.mongo_password,
            self.mongo,
            self.mongo_tls.ca.display()
        );
        let text = format!(
            "[kafka]\nbrokers = \"{}\"\nproperties = {{ {} }}\n\
             [scylla]\nnodes = [\"{}\"]\nusername = \"{}\"\npassword = {}\ntls = {}\n\
             [registry]\nurl = \"{}\"\n{login}\ntls = {}\n\
             [mongo]\nuri = {}\n[references.people]\ncollection = \"{}.people\"\nfields = {{ name = \"string\" }}\n\
             [[pipelines.secure.steps]]\nname = \"person\"\nlookup = \"SELECT number FROM people WHERE who = :who\"\n\
             [[pipelines.secure.steps]]\nname = \"row\"\n\
             write = \"INSERT INTO numbers (seq, who, place) VALUES (:seq, :who, :place)\"\nbind = {{ place = \"record.offset\" }}\n\
             [[pipelines.secure.steps]]\nname = \"known\"\nreference = \"people\"\nkey = \"event.who\"\n\
             [pipelines.secure.sink.set]\nname = \"known.name\"\n",
            self.brokers,
            kafka.join(", "),
            self.nodes,
            self.database_user,
            secret("database", &self.database_password),
            self.database_tls.table(),
            self.registry_url,
            registry_tls.table(),
            secret("mongo", &mongo),
            bench.keyspace,
        );
        bench.file(&format!("{name}.toml"), &text)
    }
}

impl Tls {
    fn table(&self) -> String {
        let client = self.client.as_ref().map_or(String::new(), |(cert, key)| {
            format!(", cert = {}, key = {}", quoted(cert), quoted(key))
        });
        format!("{{ ca = {}{client} }}", quoted(&self.ca))
    }
}

fn quoted(path: &Path) -> String {
    format!("\"{}\"", path.display())
}
