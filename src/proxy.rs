//! HTTP through the proxies that the environment names (`http_proxy`, `https_proxy`, `no_proxy`). Loopback addresses are asked directly, because a
//! proxy would ask itself.

use std::net::IpAddr;

use reqwest::{Client, ClientBuilder, Url};

/// A client builder for requests to this address only.
pub fn client(address: &Url) -> ClientBuilder {
    let client = Client::builder();
    if is_this_host(address) {
        client.no_proxy()
    } else {
        client
    }
}

fn is_this_host(address: &Url) -> bool {
    let host = address.host_str().unwrap_or_default();
    let ip: Option<IpAddr> = host.trim_matches(['[', ']']).parse().ok();
    host == "localhost" || host.ends_with(".localhost") || ip.is_some_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_its_name_are_this_host() {
        let is = |address: &str| is_this_host(&Url::parse(address).unwrap());
        for here in [
            "http://127.0.0.1:8081",
            "https://[::1]/",
            "http://127.1.2.3",
            "http://LOCALHOST:1",
            "http://a.localhost",
        ] {
            assert!(is(here), "{here}");
        }
        for elsewhere in [
            "http://registry:8081",
            "http://10.0.0.1",
            "http://localhost.example.com",
            "http://127.0.0.1.example.com",
        ] {
            assert!(!is(elsewhere), "{elsewhere}");
        }
    }
}
