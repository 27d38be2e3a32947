//! How eKuiper spells its properties (variables of the environment have no case), and which of them
//! it keeps without reading them.

/// The spelling of a name that was given without regard to case; one that is not known stays in
/// lower case, as eKuiper leaves it.
/// `within` is the object that the name stands in.
pub(super) fn spelled(name: &str, within: &str) -> String {
    let known = if within.eq_ignore_ascii_case("optional") {
        BUS_OPTIONS
    } else {
        CAMEL
    };
    known
        .iter()
        .find(|known| known.eq_ignore_ascii_case(name))
        .map_or_else(|| name.to_lowercase(), |known| (*known).to_owned())
}

/// Properties of conf keys and actions that change nothing, and why.
pub(super) const UNREAD: &[(&str, &str)] = &[
    ("sourceType", "it only sorts eKuiper's own pages"),
    ("resourceId", "eKuiper does not read it either"),
];

/// Names with a capital, as eKuiper documents them: those of sources and connections, then those of
/// `kuiper.yaml`.
const CAMEL: &[&str] = &[
    "bodyType",
    "bufferLength",
    "cacheMissingKey",
    "cacheTtl",
    "certificationPath",
    "certificationRaw",
    "clientStatePath",
    "connectionSelector",
    "dateTimeFormat",
    "debugResp",
    "enableClientSession",
    "eofMessage",
    "fileType",
    "formData",
    "groupID",
    "hasHeader",
    "ignoreEndLines",
    "ignoreStartLines",
    "indexField",
    "indexFieldType",
    "indexFields",
    "indexValue",
    "insecureSkipVerify",
    "internalSqlQueryCfg",
    "kubeedgeModelFile",
    "kubeedgeVersion",
    "maxAttempts",
    "maxBytes",
    "messageType",
    "moveTo",
    "actionAfterRead",
    "privateKeyPath",
    "privateKeyRaw",
    "protocolVersion",
    "renegotiationSupport",
    "requestHeader",
    "responseType",
    "rootCARaw",
    "rootCaPath",
    "saslAuthType",
    "saslPassword",
    "saslUserName",
    "sendInterval",
    "sessionExpiryIntervalSeconds",
    "templateSql",
    "templateSqlQueryCfg",
    "tlsMinVersion",
    "useInt64ForWholeNumber",
    // kuiper.yaml
    "aesKey",
    "cfgStorageType",
    "consoleLog",
    "enablePrivateNet",
    "fileLog",
    "gracefulShutdownTimeout",
    "ignoreCase",
    "logLevel",
    "maxAge",
    "maxConnections",
    "pluginHosts",
    "pprofIp",
    "pprofPort",
    "prometheusPort",
    "restIp",
    "restPort",
    "restTls",
    "rotateTime",
    "rulePatrolInterval",
    "checkpointInterval",
    "lateTolerance",
    "restartStrategy",
    "sendError",
    "bufferPageSize",
    "cleanCacheAtStop",
    "disableBufferFullDiscard",
    "enableCache",
    "maxDiskCache",
    "memoryCacheThreshold",
    "resendInterval",
    "httpServerIp",
    "httpServerPort",
    "httpServerTls",
];

/// The options of an EdgeX bus, which stand in `optional`.
const BUS_OPTIONS: &[&str] = &[
    "AutoReconnect",
    "CaFile",
    "CertFile",
    "CertPEMBlock",
    "CleanSession",
    "ClientId",
    "ConnectTimeout",
    "ConnectionPayload",
    "KeepAlive",
    "KeyFile",
    "KeyPEMBlock",
    "Password",
    "Qos",
    "Retained",
    "SkipCertVerify",
    "Username",
];
