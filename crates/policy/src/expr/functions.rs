//! The table of template functions.

use serde_json::Value;

use super::{compare, dates, ip, lists, numbers, texts};

/// What a function needs beside its arguments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// Its arguments unevaluated: only what decides is evaluated.
    Lazy,
    /// The resource, the parameters or the element that is counted.
    Evaluation,
    /// The surroundings that the caller gave.
    Context,
}

type Run = fn(&[Value]) -> Result<Value, String>;

pub struct Function {
    pub name: &'static str,
    pub need: Need,
    least: usize,
    most: usize,
    pub run: Run,
}

impl std::fmt::Debug for Function {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name)
    }
}

impl Function {
    pub fn check_arguments(&self, count: usize) -> Result<(), String> {
        if (self.least..=self.most).contains(&count) {
            return Ok(());
        }
        let takes = match (self.least, self.most) {
            (least, MANY) => format!("{least} to {MANY}"),
            (least, most) if least == most => format!("{least}"),
            (least, most) => format!("{least} to {most}"),
        };
        Err(format!(
            "`{}` takes {takes} arguments, not {count}",
            self.name
        ))
    }
}

/// As many arguments as a call may have.
const MANY: usize = super::ARGUMENTS_MAX;

const fn pure(name: &'static str, least: usize, most: usize, run: Run) -> Function {
    Function {
        name,
        need: Need::Nothing,
        least,
        most,
        run,
    }
}

const fn special(name: &'static str, need: Need, least: usize, most: usize) -> Function {
    Function {
        name,
        need,
        least,
        most,
        run: unavailable,
    }
}

/// The evaluator answers for functions that need more than arguments, and never comes here.
fn unavailable(_: &[Value]) -> Result<Value, String> {
    Err("the function needs an evaluation".into())
}

static FUNCTIONS: &[Function] = &[
    special("parameters", Need::Evaluation, 1, 1),
    special("field", Need::Evaluation, 1, 1),
    special("current", Need::Evaluation, 0, 1),
    special("utcNow", Need::Evaluation, 0, 1),
    special("resourceGroup", Need::Context, 0, 0),
    special("subscription", Need::Context, 0, 0),
    special("requestContext", Need::Context, 0, 0),
    special("policy", Need::Context, 0, 0),
    special("if", Need::Lazy, 3, 3),
    special("and", Need::Lazy, 1, MANY),
    special("or", Need::Lazy, 1, MANY),
    special("coalesce", Need::Lazy, 1, MANY),
    pure("not", 1, 1, compare::not),
    pure("equals", 2, 2, compare::equals),
    pure("less", 2, 2, compare::less),
    pure("lessOrEquals", 2, 2, compare::less_or_equals),
    pure("greater", 2, 2, compare::greater),
    pure("greaterOrEquals", 2, 2, compare::greater_or_equals),
    pure("true", 0, 0, |_| Ok(Value::Bool(true))),
    pure("false", 0, 0, |_| Ok(Value::Bool(false))),
    pure("null", 0, 0, |_| Ok(Value::Null)),
    pure("bool", 1, 1, compare::bool),
    pure("concat", 1, MANY, lists::concat),
    pure("array", 1, 1, lists::array),
    pure("createArray", 0, MANY, lists::create_array),
    pure("createObject", 0, MANY, lists::create_object),
    pure("contains", 2, 2, lists::contains),
    pure("empty", 1, 1, lists::empty),
    pure("first", 1, 1, lists::first),
    pure("last", 1, 1, lists::last),
    pure("length", 1, 1, lists::length),
    pure("skip", 2, 2, lists::skip),
    pure("take", 2, 2, lists::take),
    pure("union", 2, MANY, lists::union),
    pure("intersection", 2, MANY, lists::intersection),
    pure("indexOf", 2, 2, lists::index_of),
    pure("lastIndexOf", 2, 2, lists::last_index_of),
    pure("range", 2, 2, lists::range),
    pure("flatten", 1, 1, lists::flatten),
    pure("items", 1, 1, lists::items),
    pure("objectKeys", 1, 1, lists::object_keys),
    pure("shallowMerge", 1, 1, lists::shallow_merge),
    pure("tryGet", 2, MANY, lists::try_get),
    pure("indexFromEnd", 2, 2, lists::index_from_end),
    pure("tryIndexFromEnd", 2, 2, lists::try_index_from_end),
    pure("json", 1, 1, lists::json),
    pure("int", 1, 1, numbers::int),
    pure("float", 1, 1, numbers::float),
    pure("add", 2, 2, numbers::add),
    pure("sub", 2, 2, numbers::sub),
    pure("mul", 2, 2, numbers::mul),
    pure("div", 2, 2, numbers::div),
    pure("mod", 2, 2, numbers::modulo),
    pure("min", 1, MANY, numbers::min),
    pure("max", 1, MANY, numbers::max),
    pure("string", 1, 1, texts::string),
    pure("toLower", 1, 1, texts::to_lower),
    pure("toUpper", 1, 1, texts::to_upper),
    pure("trim", 1, 1, texts::trim),
    pure("substring", 2, 3, texts::substring),
    pure("replace", 3, 3, texts::replace),
    pure("split", 2, 2, texts::split),
    pure("join", 2, 2, texts::join),
    pure("startsWith", 2, 2, texts::starts_with),
    pure("endsWith", 2, 2, texts::ends_with),
    pure("padLeft", 2, 3, texts::pad_left),
    pure("format", 1, MANY, texts::format),
    pure("guid", 1, MANY, texts::guid),
    pure("uniqueString", 1, MANY, texts::unique_string),
    pure("base64", 1, 1, texts::base64),
    pure("base64ToString", 1, 1, texts::base64_to_string),
    pure("base64ToJson", 1, 1, texts::base64_to_json),
    pure("dataUri", 1, 1, texts::data_uri),
    pure("dataUriToString", 1, 1, texts::data_uri_to_string),
    pure("uri", 2, 2, texts::uri),
    pure("uriComponent", 1, 1, texts::uri_component),
    pure("uriComponentToString", 1, 1, texts::uri_component_to_string),
    pure("addDays", 2, 2, dates::add_days),
    pure("dateTimeAdd", 2, 3, dates::date_time_add),
    pure("dateTimeFromEpoch", 1, 1, dates::from_epoch),
    pure("dateTimeToEpoch", 1, 1, dates::to_epoch),
    pure("ipRangeContains", 2, 2, ip::range_contains),
    pure("parseCidr", 1, 1, ip::parse_cidr),
    pure("cidrSubnet", 3, 3, ip::cidr_subnet),
    pure("cidrHost", 2, 2, ip::cidr_host),
];

/// Functions of templates that Azure does not offer to policies: they deploy, look elsewhere or are random.
const NOT_FOR_POLICIES: &[&str] = &[
    "copyIndex",
    "deployment",
    "environment",
    "extensionResourceId",
    "filter",
    "groupBy",
    "lambda",
    "lambdaVariables",
    "listAccountSas",
    "listKeys",
    "listSecrets",
    "managementGroup",
    "managementGroupResourceId",
    "map",
    "mapValues",
    "newGuid",
    "pickZones",
    "providers",
    "reduce",
    "reference",
    "resourceId",
    "sort",
    "subscriptionResourceId",
    "tenant",
    "tenantResourceId",
    "toObject",
    "variables",
];

/// The function of this name, whatever its case.
pub fn function(name: &str) -> Result<&'static Function, String> {
    if let Some(found) = FUNCTIONS
        .iter()
        .find(|function| function.name.eq_ignore_ascii_case(name))
    {
        return Ok(found);
    }
    let elsewhere = NOT_FOR_POLICIES
        .iter()
        .any(|known| known.eq_ignore_ascii_case(name))
        || (name.len() > 4 && name.to_ascii_lowercase().starts_with("list"));
    Err(match elsewhere {
        true => format!("the function `{name}` cannot be used in policies"),
        false => format!("there is no function `{name}`"),
    })
}
