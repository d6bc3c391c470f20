//! Address ranges: a CIDR block, `first-last`, or one address; and what templates work out from blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde_json::{Value, json};

use super::numbers::whole;
use super::texts::text;

/// First and last address as numbers, and whether they are of version 6.
type Range = (u128, u128, bool);

fn address(text: &str) -> Result<(u128, bool), String> {
    match text.trim().parse::<IpAddr>() {
        Ok(IpAddr::V4(address)) => Ok((u32::from(address).into(), false)),
        Ok(IpAddr::V6(address)) => Ok((address.into(), true)),
        Err(_) => Err(format!("`{text}` is no IP address")),
    }
}

fn range(text: &str) -> Result<Range, String> {
    if let Some((first, last)) = text.split_once('-') {
        let ((first, v6), (last, also)) = (address(first)?, address(last)?);
        return match v6 == also && first <= last {
            true => Ok((first, last, v6)),
            false => Err(format!("`{text}` is no range of addresses")),
        };
    }
    if !text.contains('/') {
        return address(text).map(|(address, v6)| (address, address, v6));
    }
    let block = Block::parse(text)?;
    Ok((block.base, block.base | block.hosts(), block.v6))
}

/// A block of addresses: `10.0.0.0/8`.
#[derive(Clone, Copy)]
struct Block {
    base: u128,
    bits: u32,
    v6: bool,
}

fn width(v6: bool) -> u32 {
    if v6 { 128 } else { 32 }
}

impl Block {
    fn parse(text: &str) -> Result<Block, String> {
        let (base, bits) = text
            .split_once('/')
            .ok_or_else(|| format!("`{text}` is no block of addresses such as 10.0.0.0/8"))?;
        let (base, v6) = address(base)?;
        let width = width(v6);
        let bits: u32 = bits
            .trim()
            .parse()
            .ok()
            .filter(|bits| *bits <= width)
            .ok_or_else(|| format!("`{text}` has no prefix length of 0 to {width}"))?;
        let block = Block { base, bits, v6 };
        let base = base & !block.hosts();
        Ok(Block { base, ..block })
    }

    /// The bits that tell its addresses apart.
    fn hosts(self) -> u128 {
        let size = 1u128.checked_shl(width(self.v6) - self.bits);
        size.map_or(u128::MAX, |size| size - 1)
    }

    fn shown(self, address: u128) -> String {
        match self.v6 {
            true => Ipv6Addr::from(address).to_string(),
            // Addresses of version 4 were made from 32 bits.
            false => Ipv4Addr::from(address as u32).to_string(),
        }
    }
}

/// What a block is made of. Of version 4 only, there are a netmask and a broadcast address.
pub fn parse_cidr(arguments: &[Value]) -> Result<Value, String> {
    let block = Block::parse(text(&arguments[0])?)?;
    let (hosts, last) = (block.hosts(), block.base | block.hosts());
    let narrow = hosts <= 1;
    let (first_usable, last_usable) = match (block.v6, narrow) {
        (true, _) | (false, true) => (block.base, last),
        (false, false) => (block.base + 1, last - 1),
    };
    let mut parts = json!({
        "network": block.shown(block.base),
        "firstUsable": block.shown(first_usable),
        "lastUsable": block.shown(last_usable),
        "cidr": block.bits,
    });
    if !block.v6 {
        parts["netmask"] = block.shown(!hosts & u128::from(u32::MAX)).into();
        parts["broadcast"] = block.shown(last).into();
    }
    Ok(parts)
}

/// The block of another size within a block that has an index among them.
pub fn cidr_subnet(arguments: &[Value]) -> Result<Value, String> {
    let block = Block::parse(text(&arguments[0])?)?;
    let bits = u32::try_from(whole(&arguments[1])?).ok();
    let bits = bits.filter(|bits| (block.bits..=width(block.v6)).contains(bits));
    let bits = bits.ok_or_else(|| {
        format!(
            "a block within /{} has {} to {} bits",
            block.bits,
            block.bits,
            width(block.v6)
        )
    })?;
    let inner = Block { bits, ..block };
    let index = u128::try_from(whole(&arguments[2])?).ok();
    let offset = index.and_then(|index| match inner.hosts().checked_add(1) {
        Some(size) => index.checked_mul(size),
        None => (index == 0).then_some(0),
    });
    let offset = offset.filter(|offset| *offset <= block.hosts());
    let offset = offset.ok_or_else(|| "there is no block of that index".to_owned())?;
    let base = block.shown(block.base + offset);
    Ok(format!("{base}/{bits}").into())
}

/// The address of a host within a block, counted from the first that hosts may have.
pub fn cidr_host(arguments: &[Value]) -> Result<Value, String> {
    let block = Block::parse(text(&arguments[0])?)?;
    let index = u128::try_from(whole(&arguments[1])?).ok();
    let first = u128::from(block.hosts() > 1);
    let offset = index.and_then(|index| index.checked_add(first));
    let offset = offset.filter(|offset| *offset <= block.hosts());
    let offset = offset.ok_or_else(|| "there is no host of that index".to_owned())?;
    Ok(block.shown(block.base + offset).into())
}

pub fn range_contains(arguments: &[Value]) -> Result<Value, String> {
    let outer = range(text(&arguments[0])?)?;
    let inner = range(text(&arguments[1])?)?;
    if outer.2 != inner.2 {
        return Err("addresses of version 4 and 6 cannot be compared".into());
    }
    Ok(Value::Bool(outer.0 <= inner.0 && inner.1 <= outer.1))
}
