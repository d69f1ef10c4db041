//! The configuration of a secure run, in parts that a test can get wrong one by one.

use std::path::{Path, PathBuf};

use mongodb::bson::doc;

use crate::support::Bench;
use crate::support::tls_proxy::{Gateway, serve};

/// Passwords and tokens of these tests; none of them may ever be seen.
pub const KAFKA_PASSWORD: &str = "test-password";
pub const DATABASE_PASSWORD: &str = "d4tabase-s3cret";
pub const MONGO_PASSWORD: &str = "test-password";
pub const REGISTRY_PASSWORD: &str = "r3gistry-s3cret";
pub const REGISTRY_TOKEN: &str = "t0ken-s3cret";
/// `messina:r3gistry-s3cret` in Base64.
const BASIC: &str = "Basic bWVzc2luYTpyM2dpc3RyeS1zM2NyZXQ=";
const USER: &str = "messina";

/// How to log in to the brokers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kafka {
    /// User and password, by this mechanism.
    Scram(&'static str),
    /// An unsecured token, as development clusters take it.
    Token,
    /// The client's certificate.
    Certificate,
}

/// How to log in to the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Registry {
    /// User and password.
    Basic,
    /// A bearer token, and the client's certificate.
    Bearer,
}

/// A file with what the other side must be told, or trusted with.
#[derive(Debug, Clone)]
pub struct Tls {
    /// Authorities.
    pub ca: PathBuf,
    /// Certificate and key of the client.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// All of it.
#[derive(Debug, Clone)]
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
    pub mongo_ca: PathBuf,
    pub registry: Registry,
    pub registry_url: String,
    pub registry_secret: String,
    pub registry_tls: Tls,
    mtls_brokers: String,
    gateways: [String; 2],
}

/// The services that these tests run. The brokers ask for certificates, and go by ACLs where there are any.
pub const SERVICES: [&str; 4] = ["kafka-secure", "cassandra-tls", "registry", "mongo"];

/// Finds the services; the gateways in front of the registry are made here, the user of the database, and a document.
pub fn find(test: &str) -> Option<(Bench, Settings)> {
    let properties = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates.properties");
    let text = "listener.name.ssl.ssl.client.auth=required\n\
        authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
        super.users=User:ANONYMOUS\nallow.everyone.if.no.acl.found=true\n";
    std::fs::write(&properties, text).unwrap();
    let extra = [("KAFKA_EXTRA_PROPERTIES", properties.to_str().unwrap())];
    let bench = Bench::find_with(test, &SERVICES, &extra)?;
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
    let plain = bench.registry.url.strip_prefix("http://").unwrap();
    let (server, path) = plain.split_once('/').unwrap();
    let gateways = [(BASIC.to_owned(), false), (format!("Bearer {REGISTRY_TOKEN}"), true)].map(
        |(authorization, client_certificate)| {
            let gateway = Gateway {
                authorization,
                client_certificate,
            };
            format!("https://localhost:{}/{path}", serve(gateway, server, &tls).port())
        },
    );
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
        mongo_ca: tls.join("ca.pem"),
        registry: Registry::Basic,
        registry_url: gateways[0].clone(),
        registry_secret: REGISTRY_PASSWORD.to_owned(),
        registry_tls: right,
        mtls_brokers: own.get("KAFKA_MTLS_BROKERS"),
        gateways,
    };
    Some((bench, settings))
}

impl Settings {
    /// With another way into the brokers.
    pub fn kafka(mut self, kafka: Kafka) -> Settings {
        if kafka == Kafka::Certificate {
            self.brokers.clone_from(&self.mtls_brokers);
        }
        self.kafka = kafka;
        self
    }

    /// With a token and a certificate for the registry.
    pub fn bearer(mut self) -> Settings {
        self.registry = Registry::Bearer;
        self.registry_url.clone_from(&self.gateways[1]);
        REGISTRY_TOKEN.clone_into(&mut self.registry_secret);
        self
    }

    /// A configuration file that lies over that of the pipelines; secrets are in files beside it.
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
        };
        let registry_tls = match self.registry {
            Registry::Basic => Tls {
                client: None,
                ..self.registry_tls.clone()
            },
            Registry::Bearer => self.registry_tls.clone(),
        };
        let mongo = format!(
            "mongodb://{USER}:{}@{}/?directConnection=true&tls=true&tlsCAFile={}",
            self.mongo_password,
            self.mongo,
            self.mongo_ca.display()
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
