//! `messina` with one custom step: the country of an IP address.
//!
//! This is the whole program. It has all commands of `messina`:
//!
//!     cargo run --example geo -- run -c examples/geo/services.toml -c examples/geo/pipeline.toml
//!     cargo run --example geo -- test examples/geo/pipeline.test.toml
//!
//! `pipeline.toml` has the pipeline that uses the step. `tests.rs` tests the step alone, the cases of `pipeline.test.toml`, and the pipeline on an
//! embedded Kafka and registry.

use std::net::IpAddr;
use std::process::ExitCode;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use messina::custom::{CustomStep, CustomSteps, Row, StepError, Type, Value};

/// Networks and their countries; more specific networks come first.
struct Geo {
    networks: Vec<(IpAddr, u32, &'static str)>,
}

impl Geo {
    /// Networks reserved for documentation (RFC 5737, RFC 3849). A real step would read a file here, once.
    fn new() -> Geo {
        let networks = [
            ("192.0.2.0", 24, "FR"),
            ("198.51.100.0", 25, "DE"),
            ("198.51.100.0", 24, "IT"),
            ("2001:db8::", 32, "PT"),
        ];
        let networks = networks
            .into_iter()
            .filter_map(|(network, bits, country)| Some((network.parse().ok()?, bits, country)));
        Geo {
            networks: networks.collect(),
        }
    }

    fn country(&self, ip: IpAddr) -> Option<&'static str> {
        let found = self.networks.iter().find(|(network, bits, _)| match (network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - bits).unwrap_or(0);
                network.to_bits() & mask == ip.to_bits() & mask
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
                network.to_bits() & mask == ip.to_bits() & mask
            }
            _ => false,
        });
        found.map(|(.., country)| *country)
    }
}

impl CustomStep for Geo {
    fn takes(&self) -> Vec<(String, Type)> {
        vec![("ip".to_owned(), Type::String)]
    }

    fn gives(&self) -> Vec<(String, Type)> {
        vec![("country".to_owned(), Type::String)]
    }

    fn run<'a>(&'a self, values: &'a [Value<'a>]) -> BoxFuture<'a, Result<Option<Row>, StepError>> {
        async move {
            // The event has no address: null.
            let Some(Value::String(text)) = values.first() else {
                return Ok(None);
            };
            let ip = text
                .parse()
                .map_err(|_| StepError::permanent("address", "the field is no IP address"))?;
            Ok(self.country(ip).map(|country| vec![Value::String(country.into())]))
        }
        .boxed()
    }
}

/// The custom steps of this program.
fn steps() -> CustomSteps {
    CustomSteps::new().with("geo", Geo::new())
}

fn main() -> ExitCode {
    messina::cli::main_with(|| Ok(steps()))
}

#[cfg(test)]
mod tests;
