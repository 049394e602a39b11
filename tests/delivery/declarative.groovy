// Evaluates a declarative Jenkinsfile against the sections that Jenkins knows, and prints what it would do as JSON:
// `groovy declarative.groovy Jenkinsfile...`, a list of {pipeline} or {refused}. What is refused: a section in a place where Jenkins has none, a pipeline without
// agent or stages, a stage without exactly one of steps, stages, parallel and matrix, `environment` with anything but
// assignments. The tables follow jenkins.io/doc/book/pipeline/syntax. Steps are those that our Jenkinsfile may use: Jenkins'
// own come from plugins, and an unknown one is refused here as it would be there.
import groovy.json.JsonOutput

class Refused extends RuntimeException {
    Refused(String why) { super(why) }
}

class Section {
    static final STEPS = ['sh', 'echo', 'stash', 'unstash', 'archiveArtifacts', 'mail', 'junit', 'dir', 'withCredentials']
    static final CONDITIONS = ['always', 'changed', 'fixed', 'regression', 'aborted', 'failure', 'success', 'unstable', 'unsuccessful', 'cleanup']
    static final WHEN = ['branch', 'buildingTag', 'changelog', 'changeset', 'changeRequest', 'equals', 'tag', 'triggeredBy',
                         'beforeAgent', 'beforeInput', 'beforeOptions', 'allOf', 'anyOf', 'not']
    static final KNOWN = [
        pipeline: ['agent', 'environment', 'options', 'parameters', 'stages', 'tools', 'triggers', 'post'],
        stages: ['stage'], parallel: ['stage'],
        stage: ['agent', 'environment', 'input', 'options', 'post', 'stages', 'steps', 'parallel', 'matrix', 'when', 'tools', 'failFast'],
        matrix: ['agent', 'axes', 'excludes', 'stages', 'when', 'environment', 'input', 'options', 'post', 'tools'],
        axes: ['axis'], axis: ['name', 'values'],
        agent: ['label', 'node', 'docker', 'dockerfile', 'kubernetes'],
        input: ['message', 'id', 'ok', 'submitter', 'submitterParameter', 'parameters'],
        options: ['buildDiscarder', 'logRotator', 'checkoutToSubdirectory', 'disableConcurrentBuilds', 'disableResume', 'newContainerPerStage',
                  'overrideIndexTriggers', 'preserveStashes', 'quietPeriod', 'retry', 'skipDefaultCheckout', 'skipStagesAfterUnstable',
                  'timeout', 'timestamps', 'parallelsAlwaysFailFast'],
        parameters: ['string', 'text', 'booleanParam', 'choice', 'password'],
        environment: ['credentials'], post: CONDITIONS, steps: STEPS,
        when: WHEN, allOf: WHEN, anyOf: WHEN, not: WHEN,
    ] + CONDITIONS.collectEntries { [it, STEPS] }
    final Map node

    Section(String kind) { node = [kind: kind, children: []] }

    Object methodMissing(String name, Object arguments) {
        String kind = node.kind
        if (!(name in (KNOWN[kind] ?: STEPS))) {
            throw new Refused("`${kind}` has no `${name}`; it has ${(KNOWN[kind] ?: STEPS).join(', ')}")
        }
        if (name == 'credentials') {
            return "credentials(${arguments[0]})".toString()
        }
        List given = (arguments as Object[]).toList()
        Closure body = given && given[-1] instanceof Closure ? given.removeLast() : null
        Map made = body ? Section.of(name, body).node : [kind: name, children: []]
        made.arguments = given.collect { it instanceof Map && it.kind ? it.kind : it }
        if (!(name in ['logRotator'])) {
            node.children << made
        }
        return made
    }

    Object propertyMissing(String name) {
        if (name in ['none', 'any']) {
            return name
        }
        if (name in ['env', 'params', 'currentBuild']) {
            return [:].withDefault { "\$${name}.${it}".toString() }
        }
        throw new Refused("`${node.kind}` refers to ${name}, which is not defined")
    }

    void propertyMissing(String name, Object value) {
        if (node.kind != 'environment') {
            throw new Refused("`${node.kind}` assigns ${name}: only `environment` may")
        }
        node.children << [kind: name, arguments: [value], children: []]
    }

    static Section of(String kind, Closure body) {
        Section made = new Section(kind)
        body.delegate = made
        body.resolveStrategy = Closure.DELEGATE_ONLY
        body.call()
        List<String> has = made.node.children*.kind
        if (kind == 'pipeline' && !(has.containsAll(['agent', 'stages']))) {
            throw new Refused('a pipeline needs `agent` and `stages`')
        }
        if (kind == 'stage' && has.count { it in ['steps', 'stages', 'parallel', 'matrix'] } != 1) {
            throw new Refused('a stage needs exactly one of `steps`, `stages`, `parallel` and `matrix`')
        }
        return made
    }
}

Map read(String path) {
    Map found = null
    Binding binding = new Binding()
    binding.setVariable('pipeline') { Closure body -> found = Section.of('pipeline', body).node }
    try {
        new GroovyShell(binding).evaluate(new File(path))
    } catch (Refused | org.codehaus.groovy.control.CompilationFailedException | MissingMethodException | MissingPropertyException refused) {
        return [refused: refused.message]
    }
    return found ? [pipeline: found] : [refused: 'there is no `pipeline`']
}

println JsonOutput.toJson(args.collect { read(it) })
