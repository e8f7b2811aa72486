# Completion of netagentctl for bash, made by tools/manual.py from its parser: source it, or put it into
# /usr/share/bash-completion/completions/netagentctl. In zsh: autoload bashcompinit && bashcompinit first.
_netagentctl()
{
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    local command= kind= i
    for ((i = 1; i < COMP_CWORD; i++)); do
        case ${COMP_WORDS[i]} in
            list|show|set|delete|status|export|apply|plan|chains|explain|graph|resync|render|check-config|diag|cleanup) command=${COMP_WORDS[i]}; kind=${COMP_WORDS[i+1]}; break ;;
        esac
    done
    COMPREPLY=()
    case $before in
        --config-dir|--config-file|--file|--graph|--output|--socket|-f|-o) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        --format) mapfile -t COMPREPLY < <(compgen -W 'table json' -- "$word"); return ;;
        --table) mapfile -t COMPREPLY < <(compgen -W 'filter nat mangle raw' -- "$word"); return ;;
        --family) mapfile -t COMPREPLY < <(compgen -W '4 6' -- "$word"); return ;;
        --state) mapfile -t COMPREPLY < <(compgen -W 'NEW ESTABLISHED RELATED INVALID UNTRACKED' -- "$word"); return ;;
        --backend) mapfile -t COMPREPLY < <(compgen -W 'iptables nftables' -- "$word"); return ;;
    esac
    case $command in
        '') mapfile -t COMPREPLY < <(compgen -W '-h --help --version --config-file --config-dir --socket --url --cert --key --cacert --format --timeout list show set delete status export apply plan chains explain graph resync render check-config diag cleanup' -- "$word") ;;
        list)
            if [[ $before == "$command" ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'networks instances security-groups floating-ips provider-rules' -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout' -- "$word")
            fi ;;
        show)
            if [[ $before == "$command" ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'networks instances security-groups floating-ips provider-rules' -- "$word")
            elif [[ $before == "$kind" ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$(netagentctl list "$kind" 2>/dev/null |
                    awk 'NR > 1 { print $1 }')" -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout' -- "$word")
            fi ;;
        set)
            if [[ $before == "$command" ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'networks instances security-groups floating-ips provider-rules' -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout -f --file --no-wait' -- "$word")
            fi ;;
        delete)
            if [[ $before == "$command" ]]; then
                mapfile -t COMPREPLY < <(compgen -W 'networks instances security-groups floating-ips provider-rules' -- "$word")
            elif [[ $before == "$kind" ]]; then
                mapfile -t COMPREPLY < <(compgen -W "$(netagentctl list "$kind" 2>/dev/null |
                    awk 'NR > 1 { print $1 }')" -- "$word")
            else
                mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout --revision' -- "$word")
            fi ;;
        status) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout --watch' -- "$word") ;;
        export) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout' -- "$word") ;;
        apply) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout -f --file --dry-run --exit-code' -- "$word") ;;
        plan) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout --exit-code' -- "$word") ;;
        chains) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout --table --family' -- "$word") ;;
        explain) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout --proto --src --dst --in-dev --out-dev --state --icmp-type --icmp-code --mac --all --graph --trace --routed' -- "$word") ;;
        graph) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout -o --output --dot --table --family --whole' -- "$word") ;;
        resync) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout' -- "$word") ;;
        render) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout -f --file --backend --family' -- "$word") ;;
        check-config) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout' -- "$word") ;;
        diag) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout -o --output --plans' -- "$word") ;;
        cleanup) mapfile -t COMPREPLY < <(compgen -W '-h --help --config-file --config-dir --socket --url --cert --key --cacert --format --timeout' -- "$word") ;;
    esac
}
complete -F _netagentctl netagentctl
