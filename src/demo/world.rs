//! The demo's users, customers, partners and campaigns. The content of the database and the expectations of the verifier are both derived here, from
//! the same numbers, so that neither depends on the other.

use super::random::mix;

/// Number of users, all of whom are also customers.
pub const USERS: usize = 20_000;
/// Number of partners; orders name a few more, which do not exist.
pub const PARTNERS: usize = 60;
/// Number of campaigns; reactions name a few more, which do not exist.
pub const CAMPAIGNS: usize = 400;

/// Countries, and the rate of their value-added tax if the database has it.
pub const COUNTRIES: [(&str, Option<f64>); 10] = [
    ("FR", Some(0.2)),
    ("DE", Some(0.19)),
    ("ES", Some(0.21)),
    ("IT", Some(0.22)),
    ("NL", Some(0.21)),
    ("BE", Some(0.21)),
    ("PT", Some(0.23)),
    ("PL", Some(0.23)),
    ("SE", Some(0.25)),
    ("CH", None),
];

const SEGMENTS: [&str; 6] = ["newcomer", "regular", "bargain", "premium", "dormant", "wholesale"];
const TIERS: [&str; 4] = ["bronze", "silver", "gold", "platinum"];
const BRANDS: [&str; 8] = ["Alba", "Borea", "Corvo", "Duna", "Elba", "Faro", "Gelso", "Isola"];

/// Mixed into a number, so that each use of it gives different random values.
const PROFILE: u64 = 0x5052;
const CUSTOMER: u64 = 0x4355;
const PARTNER: u64 = 0x5041;
const CAMPAIGN: u64 = 0x4341;
const IDENTIFIER: u64 = 0x4944;

/// What is known about a user.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// The user's group.
    pub segment: &'static str,
    /// Propensity, 0 to 1.
    pub score: f64,
    /// Home country.
    pub country: &'static str,
}

/// What is known about a customer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Customer {
    /// Loyalty tier.
    pub tier: &'static str,
    /// Credit in cents.
    pub credit: i64,
}

/// What is known about a partner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partner {
    /// Its shop.
    pub name: String,
    /// Its country, an index into [`COUNTRIES`].
    pub country: usize,
}

/// What is known about a campaign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Campaign {
    /// Its name.
    pub name: String,
    /// Its brand.
    pub brand: &'static str,
}

/// All users, partners and campaigns, by number. Users and campaigns with lower numbers are seen more often.
#[derive(Debug)]
pub struct World {
    identifiers: Vec<[u8; 16]>,
    partners: Vec<Partner>,
    campaigns: Vec<Campaign>,
}

impl Default for World {
    fn default() -> Self {
        let identifier = |user: u64| {
            let mut text = [0; 16];
            let number = mix(user ^ (IDENTIFIER << 32));
            for (at, digit) in text.iter_mut().enumerate() {
                *digit = b"0123456789abcdef"[(number >> (4 * at)) as usize & 15];
            }
            text
        };
        let partner = |partner: u64| Partner {
            name: format!("{} {partner}", one_of(&BRANDS, mix(partner ^ (PARTNER << 32)))),
            country: (mix(partner ^ (PARTNER << 40)) % COUNTRIES.len() as u64) as usize,
        };
        let campaign = |campaign: u64| Campaign {
            name: format!("campaign-{campaign}"),
            brand: one_of(&BRANDS, mix(campaign ^ (CAMPAIGN << 32))),
        };
        World {
            identifiers: (0..USERS as u64).map(identifier).collect(),
            partners: (0..PARTNERS as u64).map(partner).collect(),
            campaigns: (0..CAMPAIGNS as u64).map(campaign).collect(),
        }
    }
}

impl World {
    /// The identifier of a user, who is also a customer.
    pub fn user_id(&self, user: usize) -> &str {
        // It contains only hexadecimal digits.
        std::str::from_utf8(&self.identifiers[user]).unwrap_or_default()
    }

    /// A user's profile; one in ten has none.
    pub fn profile(&self, user: usize) -> Option<Profile> {
        let number = mix(user as u64 ^ (PROFILE << 32));
        (!number.is_multiple_of(10)).then(|| Profile {
            segment: one_of(&SEGMENTS, number >> 8),
            score: ((number >> 16) % 10_000) as f64 / 10_000.0,
            country: COUNTRIES[((number >> 40) % 10) as usize].0,
        })
    }

    /// A customer. One in two hundred is unknown, but none of the hundred that order most often.
    pub fn customer(&self, user: usize) -> Option<Customer> {
        let number = mix(user as u64 ^ (CUSTOMER << 32));
        (user < 100 || !number.is_multiple_of(200)).then(|| Customer {
            tier: one_of(&TIERS, number >> 8),
            credit: ((number >> 16) % 500_000).cast_signed() - 50_000,
        })
    }

    /// A partner, if there is one with this number.
    pub fn partner(&self, partner: usize) -> Option<&Partner> {
        self.partners.get(partner)
    }

    /// A campaign, if there is one with this number.
    pub fn campaign(&self, campaign: usize) -> Option<&Campaign> {
        self.campaigns.get(campaign)
    }
}

/// The identifier of a partner, whether it exists or not.
pub fn partner_id(partner: usize) -> String {
    format!("partner-{partner:03}")
}

fn one_of(items: &[&'static str], number: u64) -> &'static str {
    items[(number % items.len() as u64) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn identifiers_are_unique() {
        let world = World::default();
        let all: HashSet<&str> = (0..USERS).map(|user| world.user_id(user)).collect();
        assert_eq!(all.len(), USERS);
        assert!(all.iter().all(|id| id.len() == 16));
    }

    #[test]
    fn some_are_missing() {
        let world = World::default();
        let share = |n: usize| n as f64 / USERS as f64;
        let without = share((0..USERS).filter(|u| world.profile(*u).is_none()).count());
        assert!((0.09..0.11).contains(&without), "{without}");
        let unknown = share((0..USERS).filter(|u| world.customer(*u).is_none()).count());
        assert!((0.003..0.007).contains(&unknown), "{unknown}");
        assert!(world.partner(PARTNERS).is_none() && world.campaign(CAMPAIGNS).is_none());
    }
}
