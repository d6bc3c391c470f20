//! Address ranges: a CIDR block, `first-last`, or one address.

use std::net::IpAddr;

use serde_json::Value;

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
    let Some((base, bits)) = text.split_once('/') else {
        return address(text).map(|(address, v6)| (address, address, v6));
    };
    let (base, v6) = address(base)?;
    let width: u32 = if v6 { 128 } else { 32 };
    let bits: u32 = bits
        .trim()
        .parse()
        .ok()
        .filter(|bits| *bits <= width)
        .ok_or_else(|| format!("`{text}` has no prefix length of 0 to {width}"))?;
    let size = 1u128.checked_shl(width - bits);
    let mask = size.map_or(u128::MAX, |size| size - 1);
    Ok((base & !mask, (base & !mask) | mask, v6))
}

pub fn range_contains(arguments: &[Value]) -> Result<Value, String> {
    let outer = range(text(&arguments[0])?)?;
    let inner = range(text(&arguments[1])?)?;
    if outer.2 != inner.2 {
        return Err("addresses of version 4 and 6 cannot be compared".into());
    }
    Ok(Value::Bool(outer.0 <= inner.0 && inner.1 <= outer.1))
}
