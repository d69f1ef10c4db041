//! The records that are measured: events of the rich schema, and flat records, as typed structs filled with seeded
//! random data.
//!
//! The structs are what a user of a serde library would write. They borrow text and bytes, which is the fastest way such
//! a library offers. Shapes and probabilities of the values are those of advertising or shop events.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// The schema without `decimal`, which serde_avro_fast would needlessly convert to numbers.
pub fn without_decimals(schema: &str) -> serde_avro_fast::Schema {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(object) => {
                if object.get("logicalType").is_some_and(|ty| ty == "decimal") {
                    object.remove("logicalType");
                }
                object.values_mut().for_each(strip);
            }
            serde_json::Value::Array(items) => items.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut json = serde_json::from_str(schema).unwrap();
    strip(&mut json);
    json.to_string().parse().unwrap()
}

/// An event of `tests/schemas/event.avsc`.
#[derive(Serialize, Deserialize)]
pub struct Event<'a> {
    pub event_id: &'a str,
    pub event_type: EventType,
    pub ts: i64,
    pub ingest_ts: i64,
    pub event_date: i32,
    pub partner_id: &'a str,
    pub campaign_id: Option<i64>,
    pub creative_id: Option<&'a str>,
    #[serde(borrow)]
    pub user: User<'a>,
    pub ctx: Context<'a>,
    pub items: Vec<Item<'a>>,
    pub payment: Option<Payment<'a>>,
    pub total: Option<Money<'a>>,
    pub tax: Option<Money<'a>>,
    pub ship_to: Option<Geo<'a>>,
    pub touches: Vec<Touch>,
    pub props: HashMap<&'a str, Option<Scalar<'a>>>,
    pub tags: Vec<&'a str>,
    #[serde(with = "serde_bytes")]
    pub payload: &'a [u8],
    pub score: f32,
    pub bid_price: f64,
    pub is_bot: bool,
    pub retries: i32,
    #[serde(with = "serde_bytes")]
    pub trace: Option<&'a [u8]>,
    pub schema_rev: i32,
}

/// An event of `tests/schemas/event_enriched.avsc`.
#[derive(Serialize)]
pub struct Enriched<'a> {
    pub event_id: &'a str,
    pub event_type: EventType,
    pub ts: i64,
    pub ingest_ts: i64,
    pub event_date: i32,
    pub partner_id: &'a str,
    pub campaign_id: Option<i64>,
    pub creative_id: Option<&'a str>,
    pub user: User<'a>,
    pub ctx: Context<'a>,
    pub items: Vec<Item<'a>>,
    pub payment: Option<Payment<'a>>,
    pub total: Option<Money<'a>>,
    pub tax: Option<Money<'a>>,
    pub ship_to: Option<Geo<'a>>,
    pub touches: Vec<Touch>,
    pub props: HashMap<&'a str, Option<Scalar<'a>>>,
    pub tags: Vec<&'a str>,
    #[serde(with = "serde_bytes")]
    pub payload: &'a [u8],
    pub score: f32,
    pub bid_price: f64,
    pub is_bot: bool,
    pub retries: i32,
    #[serde(with = "serde_bytes")]
    pub trace: Option<&'a [u8]>,
    pub schema_rev: i32,
    pub segment: Option<&'a str>,
    pub user_score: Option<f64>,
    pub country: Option<&'a str>,
    pub processed_at: i64,
}

impl<'a> Event<'a> {
    /// The event with its new fields.
    pub fn enrich(
        self,
        segment: Option<&'a str>,
        user_score: Option<f64>,
        country: Option<&'a str>,
        processed_at: i64,
    ) -> Enriched<'a> {
        Enriched {
            event_id: self.event_id,
            event_type: self.event_type,
            ts: self.ts,
            ingest_ts: self.ingest_ts,
            event_date: self.event_date,
            partner_id: self.partner_id,
            campaign_id: self.campaign_id,
            creative_id: self.creative_id,
            user: self.user,
            ctx: self.ctx,
            items: self.items,
            payment: self.payment,
            total: self.total,
            tax: self.tax,
            ship_to: self.ship_to,
            touches: self.touches,
            props: self.props,
            tags: self.tags,
            payload: self.payload,
            score: self.score,
            bid_price: self.bid_price,
            is_bot: self.is_bot,
            retries: self.retries,
            trace: self.trace,
            schema_rev: self.schema_rev,
            segment,
            user_score,
            country,
            processed_at,
        }
    }
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum EventType {
    Impression,
    Click,
    View,
    AddToCart,
    Purchase,
    Conversion,
    Bounce,
}

#[derive(Serialize, Deserialize)]
pub struct User<'a> {
    pub id: &'a str,
    #[serde(with = "serde_bytes")]
    pub anon_id: &'a [u8],
    pub segments: Vec<i32>,
    pub consent: Option<&'a str>,
    #[serde(borrow)]
    pub geo: Option<Geo<'a>>,
    pub first_seen: Option<i64>,
    pub loyalty: Option<Loyalty>,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
pub enum Loyalty {
    None,
    Silver,
    Gold,
    Platinum,
}

#[derive(Serialize, Deserialize)]
pub struct Geo<'a> {
    pub country: &'a str,
    pub region: Option<&'a str>,
    pub city: Option<&'a str>,
    pub lat: Option<f64>,
    pub lon: Option<f64>,
}

#[derive(Serialize, Deserialize)]
pub struct Context<'a> {
    #[serde(borrow)]
    pub device: Device<'a>,
    pub page_url: &'a str,
    pub referrer: Option<&'a str>,
    #[serde(with = "serde_bytes")]
    pub ip: &'a [u8],
    pub session_id: &'a str,
    pub geo: Option<Geo<'a>>,
}

#[derive(Serialize, Deserialize)]
pub struct Device<'a> {
    pub os: Os,
    pub os_version: Option<&'a str>,
    pub model: Option<&'a str>,
    pub user_agent: &'a str,
    pub screen_w: i32,
    pub screen_h: i32,
    pub mobile: bool,
    pub locale: &'a str,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
pub enum Os {
    Ios,
    Android,
    Windows,
    Macos,
    Linux,
    Other,
}

#[derive(Serialize, Deserialize)]
pub struct Item<'a> {
    pub sku: &'a str,
    pub title: Option<&'a str>,
    pub qty: i32,
    #[serde(with = "serde_bytes")]
    pub unit_price: &'a [u8],
    #[serde(borrow)]
    pub category: Category<'a>,
    pub attrs: HashMap<&'a str, Option<Scalar<'a>>>,
}

#[derive(Serialize, Deserialize, Clone)]
pub struct Category<'a> {
    pub name: &'a str,
    #[serde(borrow)]
    pub parent: Option<Box<Category<'a>>>,
}

/// A property's value.
#[derive(Serialize, Deserialize)]
pub enum Scalar<'a> {
    String(&'a str),
    Long(i64),
    Double(f64),
    Boolean(bool),
}

#[derive(Serialize, Deserialize)]
#[allow(clippy::enum_variant_names)] // The names are the schema's.
pub enum Payment<'a> {
    #[serde(rename = "com.acme.events.CardPayment")]
    CardPayment {
        scheme: Scheme,
        last4: &'a str,
        bin_country: Option<&'a str>,
        three_ds: bool,
    },
    #[serde(rename = "com.acme.events.WalletPayment")]
    WalletPayment {
        provider: &'a str,
        #[serde(with = "serde_bytes")]
        account: &'a [u8],
    },
    #[serde(rename = "com.acme.events.VoucherPayment")]
    VoucherPayment { code: &'a str, remaining: f64 },
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    Visa,
    Mc,
    Amex,
    Cb,
}

#[derive(Serialize, Deserialize)]
pub struct Money<'a> {
    #[serde(with = "serde_bytes")]
    pub amount: &'a [u8],
    pub currency: Currency,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
pub enum Currency {
    Eur,
    Usd,
    Gbp,
    Jpy,
    Chf,
}

#[derive(Serialize, Deserialize)]
pub struct Touch {
    pub channel: Channel,
    pub at: i64,
    pub weight: f32,
}

#[derive(Serialize, Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
pub enum Channel {
    Search,
    Social,
    Email,
    Display,
    Direct,
    Affiliate,
}

/// A record of eight fields.
#[derive(Serialize, Deserialize)]
pub struct Flat<'a> {
    pub id: &'a str,
    pub ts: i64,
    pub user: &'a str,
    pub page: &'a str,
    pub campaign: Option<i64>,
    pub amount: f64,
    pub count: i32,
    pub mobile: bool,
}

impl<'a> Flat<'a> {
    /// The record with its new fields.
    pub fn enrich(self, segment: Option<&'a str>) -> FlatEnriched<'a> {
        FlatEnriched {
            id: self.id,
            ts: self.ts,
            user: self.user,
            page: self.page,
            campaign: self.campaign,
            amount: self.amount,
            count: self.count,
            mobile: self.mobile,
            segment,
            processed_at: self.ts * 1000,
        }
    }
}

/// A record of eight fields and two new ones.
#[derive(Serialize)]
pub struct FlatEnriched<'a> {
    pub id: &'a str,
    pub ts: i64,
    pub user: &'a str,
    pub page: &'a str,
    pub campaign: Option<i64>,
    pub amount: f64,
    pub count: i32,
    pub mobile: bool,
    pub segment: Option<&'a str>,
    pub processed_at: i64,
}

const LATIN: &[&str] = &[
    "amber", "birch", "cedar", "dune", "ember", "fjord", "grove", "heath", "islet", "jade", "knoll", "larch", "marsh",
    "north", "oasis", "pearl", "quartz", "ridge", "shore", "tundra", "upland", "vale", "willow", "zephyr",
];
const FOREIGN: &[&str] = &["forêt", "größe", "señal", "海岸", "Łódź", "naïve"];
const AGENTS: &[&str] = &[
    "Mozilla/5.0 (Linux; Android 15; Pixel 9) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Mobile Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Mobile/15E148",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:133.0) Gecko/20100101 Firefox/133.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.1 Safari/605.1.15",
    "Dalvik/2.1.0 (Linux; U; Android 14)",
];
const PROPS: &[&str] = &[
    "utm_source",
    "utm_medium",
    "utm_campaign",
    "gclid",
    "size",
    "color",
    "brand",
    "variant",
    "ab",
    "exp_id",
    "slot",
    "pos",
    "ctr",
];
const START: i64 = 1_760_000_000_000;

/// Seeded random events. Borrowed data is leaked, because the benchmark makes it once.
pub struct Generator {
    state: u64,
    categories: Vec<Category<'static>>,
}

impl Generator {
    pub fn new(seed: u64) -> Generator {
        let mut generator = Generator {
            state: seed,
            categories: Vec::new(),
        };
        generator.categories = (0..500).map(|_| generator.category(0)).collect();
        generator
    }

    /// SplitMix64 (Steele, Lea, Flood 2014).
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn between(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low + 1) as u64) as i64
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }

    fn chance(&mut self, share: f64) -> bool {
        self.unit() < share
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn maybe<T>(&mut self, share: f64, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        if self.chance(share) { Some(make(self)) } else { None }
    }

    /// One of several numbers, chosen by weights in hundredths.
    fn weighted(&mut self, of: &[(usize, f64)]) -> usize {
        let mut at = self.unit() * 100.0;
        for (number, weight) in of {
            at -= weight;
            if at < 0.0 {
                return *number;
            }
        }
        of[0].0
    }

    fn bytes(&mut self, count: usize) -> &'static [u8] {
        (0..count).map(|_| self.next() as u8).collect::<Vec<_>>().leak()
    }

    fn word(&mut self) -> &'static str {
        let at = self.below(LATIN.len() + FOREIGN.len());
        LATIN.get(at).copied().unwrap_or_else(|| FOREIGN[at - LATIN.len()])
    }

    fn phrase(&mut self, low: i64, high: i64) -> &'static str {
        let count = self.between(low, high);
        let words: Vec<&str> = (0..count).map(|_| self.word()).collect();
        words.join(" ").leak()
    }

    fn slug(&mut self, count: i64) -> &'static str {
        let words: Vec<&str> = (0..count).map(|_| self.pick(LATIN)).collect();
        words.join("-").leak()
    }

    fn category(&mut self, depth: usize) -> Category<'static> {
        let deeper = depth < 3 && self.chance(0.55);
        Category {
            name: self.slug(1),
            parent: deeper.then(|| Box::new(self.category(depth + 1))),
        }
    }

    fn scalar(&mut self) -> Option<Scalar<'static>> {
        match self.below(10) {
            0 => None,
            1..4 => Some(Scalar::String(self.phrase(1, 3))),
            4..6 => Some(Scalar::Long(self.between(-1_000_000, 1_000_000_000))),
            6..8 => Some(Scalar::Double(self.unit() * 1000.0)),
            _ => Some(Scalar::Boolean(self.chance(0.5))),
        }
    }

    fn scalars(&mut self, most: i64) -> HashMap<&'static str, Option<Scalar<'static>>> {
        let mut map = HashMap::new();
        for _ in 0..self.between(0, most) {
            map.insert(self.pick(PROPS), self.scalar());
        }
        map
    }

    fn geo(&mut self) -> Geo<'static> {
        let lat = self.maybe(0.5, |g| g.unit() * 180.0 - 90.0);
        Geo {
            country: self.pick(&["FR", "US", "DE", "ES", "JP", "GB"]),
            region: self.maybe(0.6, |g| g.pick(&["IDF", "CA", "BY", "CT", "13"])),
            city: self.maybe(0.7, |g| g.pick(&["Paris", "San José", "München", "東京", "London"])),
            lat,
            lon: lat.map(|_| self.unit() * 360.0 - 180.0),
        }
    }

    fn money(&mut self) -> Money<'static> {
        use Currency::*;
        Money {
            amount: self.between(0, 50_000_000).to_be_bytes().to_vec().leak(),
            currency: self.pick(&[Eur, Usd, Gbp, Jpy, Chf]),
        }
    }

    /// The shortest encoding of a decimal.
    fn price(&mut self) -> &'static [u8] {
        let value = self.between(-500, 500_000);
        let bits = 64 - value.unsigned_abs().leading_zeros() as usize;
        value.to_be_bytes()[7 - bits / 8..].to_vec().leak()
    }

    fn item(&mut self) -> Item<'static> {
        let category = self.below(self.categories.len());
        Item {
            sku: format!("SKU-{:07}", self.below(10_000_000)).leak(),
            title: self.maybe(0.8, |g| g.phrase(2, 5)),
            qty: self.pick(&[1, 1, 1, 2, 3, 100]),
            unit_price: self.price(),
            category: self.categories[category].clone(),
            attrs: self.scalars(3),
        }
    }

    fn payment(&mut self) -> Option<Payment<'static>> {
        use Scheme::*;
        let share = self.unit();
        if share < 0.6 {
            return None;
        }
        Some(if share < 0.8 {
            Payment::CardPayment {
                scheme: self.pick(&[Visa, Mc, Amex, Cb]),
                last4: format!("{:04}", self.below(10_000)).leak(),
                bin_country: self.maybe(0.5, |_| "FR"),
                three_ds: self.chance(0.5),
            }
        } else if share < 0.93 {
            Payment::WalletPayment {
                provider: self.pick(&["paypal", "applepay", "gpay"]),
                account: self.bytes(16),
            }
        } else {
            Payment::VoucherPayment {
                code: self.slug(2),
                remaining: self.unit() * 100.0,
            }
        })
    }

    fn user(&mut self, ts: i64) -> User<'static> {
        use Loyalty::*;
        let segments = self.pick(&[0, 0, 3, 5, 9]);
        // A few users have most of the events.
        let rank = (200_000f64).powf(self.unit()) as usize;
        User {
            id: format!("u{rank:07}").leak(),
            anon_id: self.bytes(16),
            segments: (0..segments).map(|_| self.between(1, 20_000) as i32).collect(),
            consent: self.maybe(0.5, |g| &*format!("{:016x}{:016x}", g.next(), g.next()).leak()),
            geo: self.maybe(0.6, Generator::geo),
            first_seen: self.maybe(0.5, |g| ts - g.between(0, 10_000_000_000)),
            loyalty: self.maybe(0.3, |g| g.pick(&[None, Silver, Gold, Platinum])),
        }
    }

    fn context(&mut self) -> Context<'static> {
        use Os::*;
        let (domain, words) = (self.slug(1), self.between(1, 4));
        let address = self.pick(&[4, 4, 16]);
        Context {
            device: Device {
                os: self.pick(&[Ios, Android, Windows, Macos, Linux, Other]),
                os_version: self.maybe(0.8, |g| &*format!("{}.{}", g.between(8, 18), g.between(0, 6)).leak()),
                model: self.maybe(0.6, |g| g.pick(&["iPhone17,1", "Pixel 9", "SM-S931B", "Surface"])),
                user_agent: self.pick(AGENTS),
                screen_w: self.pick(&[390, 412, 1280, 1920, 2560]),
                screen_h: self.pick(&[844, 915, 720, 1080, 1440]),
                mobile: self.chance(0.6),
                locale: self.pick(&["fr-FR", "en-US", "de-DE", "es-ES"]),
            },
            page_url: format!(
                "https://www.{domain}.example/{}?id={}",
                self.slug(words),
                self.between(1, 1_000_000)
            )
            .leak(),
            referrer: self.maybe(0.5, |g| &*format!("https://{}.example/", g.slug(1)).leak()),
            ip: self.bytes(address),
            session_id: format!("{:016x}{:016x}", self.next(), self.next()).leak(),
            geo: self.maybe(0.15, Generator::geo),
        }
    }

    /// Event number `number`.
    pub fn event(&mut self, number: usize) -> Event<'static> {
        use Channel::*;
        use EventType::*;
        let ts = START + number as i64 * 151 + self.between(-5000, 5000);
        let items = self.weighted(&[(0, 30.0), (1, 35.0), (2, 20.0), (3, 10.0), (6, 5.0)]);
        let touches = self.weighted(&[(0, 40.0), (1, 30.0), (2, 20.0), (4, 10.0)]);
        let (tags, payload) = (self.between(0, 4), self.pick(&[0, 0, 16, 48]));
        let (a, b) = (self.next(), self.next());
        let (variant, low) = (0x8000 | (b >> 48) & 0x3fff, b & 0xffff_ffff_ffff);
        let id = format!(
            "{:08x}-{:04x}-4{:03x}-{variant:04x}-{low:012x}",
            a >> 32,
            (a >> 16) & 0xffff,
            a & 0xfff
        );
        Event {
            event_id: id.leak(),
            event_type: self.pick(&[Impression, Click, View, AddToCart, Purchase, Conversion, Bounce]),
            ts,
            ingest_ts: ts * 1000 + self.between(0, 999_999),
            event_date: (ts / 86_400_000) as i32,
            partner_id: format!("partner-{}", self.between(1, 400)).leak(),
            campaign_id: self.maybe(0.7, |g| g.between(1, 10_000_000)),
            creative_id: self.maybe(0.5, |g| &*format!("cr_{:08x}", g.next() as u32).leak()),
            user: self.user(ts),
            ctx: self.context(),
            items: (0..items).map(|_| self.item()).collect(),
            payment: self.payment(),
            total: self.maybe(0.5, Generator::money),
            tax: self.maybe(0.3, Generator::money),
            ship_to: self.maybe(0.25, Generator::geo),
            touches: (0..touches)
                .map(|_| Touch {
                    channel: self.pick(&[Search, Social, Email, Display, Direct, Affiliate]),
                    at: ts - self.between(0, 99_999_999),
                    weight: self.unit() as f32,
                })
                .collect(),
            props: self.scalars(6),
            tags: (0..tags).map(|_| self.word()).collect(),
            payload: self.bytes(payload),
            score: self.unit() as f32,
            bid_price: self.unit() * 5.0,
            is_bot: self.chance(0.03),
            retries: self.pick(&[0, 0, 0, 1, 2]),
            trace: self.maybe(0.4, |g| g.bytes(16)),
            schema_rev: 3,
        }
    }

    /// Flat record number `number`: 85 bytes on average.
    pub fn flat(&mut self, number: usize) -> Flat<'static> {
        Flat {
            id: format!("{:016x}{:08x}", self.next(), self.next() as u32).leak(),
            ts: START + number as i64 * 151,
            user: format!("u{:07}", self.below(10_000_000)).leak(),
            page: format!("/{}/{}", self.slug(2), self.slug(3)).leak(),
            campaign: self.maybe(0.7, |g| g.between(1, 10_000_000)),
            amount: self.unit() * 100.0,
            count: self.between(0, 300) as i32,
            mobile: self.chance(0.6),
        }
    }
}
